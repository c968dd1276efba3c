"""The HTTP service that holds the privilege: authenticates users, applies the policy, submits, records, shows runs.

serve, app, routes, service     settings to application to requests; the dependencies that requests share
models, pages, answers          what goes out: JSON by OpenAPI, pages for browsers, errors
guard, limits, audit            around every request: middleware, token buckets, the audit log
tokens, keys                    authentication: OIDC identity tokens and their issuer's keys
catalogue, files, results       what a member may see: runs, folders, files with ranges
reports                         the page that `report` writes about a run
client                          the other side: `submit` and `runs` with `--server-url`

One concern a file: a reviewer of authentication reads two of them, and none but `serve` imports all. Folders inside
would hide no name and lengthen every import.
"""
