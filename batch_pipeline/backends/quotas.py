"""AWS Batch's service quotas, each under its URL: the one place where they stand.

What a plan is cut by is a `Limits` value, which each backend states (`Backend.limits`). The other quotas hold for every
request. The embedded Batch (`localbatch`) enforces its own, as the service does; a test holds that both agree.

https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html, where no other page is named.
"""

from __future__ import annotations

from typing import Final

from batch_pipeline.pipeline.plan import Limits

#: What one SubmitJob may not exceed. AWS takes more bytes of overrides at submission, and fails the job later: the
#: limit is 8,192 characters with what AWS adds itself.
#: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html, "overrides"
#: Children: AWS takes 1,000,000 jobs in SUBMITTED, and does not say whether children that are PENDING for what they
#: wait for count. So all that have not ended are counted, and a tenth is left to gathers, joins and other pipelines.
AWS_BATCH: Final = Limits(
    max_array_size=10_000,
    max_dependencies=20,
    max_name=128,
    max_request_bytes=30 * 1024,
    max_overrides_bytes=6_500,
    max_live_children=900_000,
)
#: SubmitJob calls a second of one account in one region; not to be raised.
SUBMITS_PER_SECOND: Final = 50
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_DescribeJobs.html
JOBS_PER_DESCRIBE: Final = 100
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_TerminateJobs.html
JOBS_PER_TERMINATE: Final = 50
MAX_REASON_CHARACTERS: Final = 1024
MAX_DEFINITION_BYTES: Final = 24 * 1024
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_RegisterJobDefinition.html
MAX_DEFINITION_NAME: Final = 128
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_RetryStrategy.html
MAX_RETRY_RULES: Final = 5
MAX_ATTEMPTS: Final = 10
#: Of the job and its definition together: they go to the task together, and with more it fails.
#: https://docs.aws.amazon.com/batch/latest/userguide/using-tags.html
MAX_TAGS: Final = 50
MAX_TAG_KEY: Final = 128
MAX_TAG_VALUE: Final = 256
#: https://docs.aws.amazon.com/batch/latest/APIReference/API_SubmitJob.html
MAX_PRIORITY: Final = 9999
MAX_SHARE_IDENTIFIER: Final = 255
