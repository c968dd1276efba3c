// Loaded before a server: dynalite ends when a client breaks off while it sends, which DynamoDB does not.
// https://github.com/architect/dynalite/blob/v4.0.0/index.js
process.on('uncaughtException', (error) => {
  if (error.code !== 'ECONNRESET') throw error
})

// It does not outlive whoever started it, however that ended.
process.stdin.resume().on('end', () => process.exit())
