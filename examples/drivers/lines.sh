#!/bin/sh
# A driver's script in the shell: counts the lines of the example's texts and puts the table where the run writes.
#
#     batch-pipeline submit --dataset texts --description "Count lines" --output-dir lines examples/drivers/lines.sh
set -eu
cd "$(dirname "$0")/.."

table="$(mktemp -d)/lines.tsv"
for text in texts/*.txt; do
    printf '%s\t%s\n' "$(basename "$text" .txt)" "$(grep -c '' "$text")"
done >"$table"

echo "level $BATCH_PIPELINE_ACCESS_LEVEL of $BATCH_PIPELINE_DATASET, run $BATCH_PIPELINE_RUN_ID"
exec python3 -m batch_pipeline.container.put "$table"
