#!/usr/bin/env Rscript
# A driver's script in R: the lengths of the words of the example's texts, as a table.
#
#     batch-pipeline submit --dataset texts --description "Word lengths" --output-dir lengths \
#         --image …/r:1 examples/drivers/lengths.R
script <- sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)[1])
texts <- list.files(file.path(dirname(script), "..", "texts"), pattern = "[.]txt$", full.names = TRUE)
words <- unlist(lapply(texts, function(text) strsplit(tolower(readLines(text, warn = FALSE)), "[^a-z]+")))
words <- words[nzchar(words)]

table <- as.data.frame(table(length = nchar(words)), responseName = "words")
file <- file.path(tempfile("lengths"), "lengths.tsv")
dir.create(dirname(file))
write.table(table, file, sep = "\t", quote = FALSE, row.names = FALSE)

status <- system2("python3", c("-m", "batch_pipeline.container.put", shQuote(file)))
quit(status = status)
