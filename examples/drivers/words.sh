#!/bin/sh
# A driver's script that is a pipeline: `examples/words.py` with its samples. Store, queue and roles come from the driver;
# interrupted and started again, it goes on with the jobs that it had sent. The samples' files go to the store first: what
# jobs read must outlive the driver.
#
#     batch-pipeline submit --dataset texts --description "Count words" --output-dir words examples/drivers/words.sh
set -eu
cd "$(dirname "$0")/.."
python3 -m batch_pipeline.container.put texts
exec python3 words.py --sample-list-file texts.txt --sources texts "$@"
