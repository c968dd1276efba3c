"""What both sides of the wire agree on: names of variables, exit codes, why an attempt ended.

The driver writes the variables into a job's environment, the container reads them; the container ends with one of the
exit codes, the driver reads its meaning here. Constants and enums; nothing here acts.
"""

from __future__ import annotations

from enum import Enum, IntEnum

#: Forms of a port whose files only its cell knows: all below a directory, and all that patterns stand for.
DIRECTORY, MANY = "directory", "many"


class Variable:
    """Names in a job's environment. Those of AWS Batch and of awslabs' fetch-and-run keep their meaning."""

    #: awslabs: `script` or `zip`. Ours are zips.
    FILE_TYPE = "BATCH_FILE_TYPE"
    #: awslabs: where the bundle lies (`s3://…`; also `file:///…`).
    FILE_URL = "BATCH_FILE_S3_URL"
    #: The bundle's SHA-256 in hex; a bundle with another one is refused.
    FILE_SHA256 = "BATCH_FILE_SHA256"

    #: URL of the store's prefix (`s3://bucket/prefix` or `file:///folder`).
    STORE = "BATCH_PIPELINE_STORE"
    #: Key of the manifest in the store. Present: fetch-and-run runs a cell; absent: it runs what its arguments say.
    MANIFEST = "BATCH_PIPELINE_MANIFEST"
    #: SHA-256 in hex of the manifest and of the rows beside it: by these a host's containers share them.
    MANIFEST_SHA256 = "BATCH_PIPELINE_MANIFEST_SHA256"
    ROWS_SHA256 = "BATCH_PIPELINE_ROWS_SHA256"
    #: Set instead of a manifest: the job only joins what others wait for; it ends at once with 0.
    JOIN = "BATCH_PIPELINE_JOIN"
    #: Key of a driver's order in the store, and its SHA-256: fetch-and-run runs the script that it names.
    DRIVER = "BATCH_PIPELINE_DRIVER"
    DRIVER_SHA256 = "BATCH_PIPELINE_DRIVER_SHA256"
    #: Our id of the run.
    RUN_ID = "BATCH_PIPELINE_RUN_ID"
    #: Folder for scratch directories; the container's default is /scratch if present, else the temporary folder.
    SCRATCH = "BATCH_PIPELINE_SCRATCH"
    #: Folder a host for cached references.
    CACHE = "BATCH_PIPELINE_CACHE"
    #: Folders of this machine, with colons between, that the embedded Batch gives to a job's container, read-only.
    FOLDERS = "BATCH_PIPELINE_FOLDERS"

    #: The umask of whoever gave the command, in octal: what the embedded Batch gives to a job's container.
    UMASK = "BATCH_PIPELINE_UMASK"

    #: Run in which this one was started: what a driver job puts into its environment, and a run's record keeps.
    PARENT_RUN = "BATCH_PIPELINE_PARENT_RUN"
    #: Who had the job submitted in which a run is started.
    USER = "BATCH_PIPELINE_USER"
    #: The dataset that a run is about, at which level of access, and below which prefix it writes.
    DATASET = "BATCH_PIPELINE_DATASET"
    ACCESS_LEVEL = "BATCH_PIPELINE_ACCESS_LEVEL"
    OUTPUT_PREFIX = "BATCH_PIPELINE_OUTPUT_PREFIX"
    #: The same as URL or folder, and the file of the driver's merged configuration (TOML): for its script.
    OUTPUT_URL = "BATCH_PIPELINE_OUTPUT_URL"
    CONFIG_PATH = "BATCH_PIPELINE_CONFIG_PATH"

    #: The seed's names, for scripts that read them: the bucket, the one sample, the list (or its URL), the reference.
    BUCKET_NAME = "BUCKET_NAME"
    SAMPLE_NAME = "SAMPLE_NAME"
    LIST_OF_SAMPLES = "LIST_OF_SAMPLES"
    REFERENCE = "REFERENCE"

    #: Set by Batch itself. A child's id is `parent:index`; INDEX is there in children only; ATTEMPT counts from 1.
    JOB_ID = "AWS_BATCH_JOB_ID"
    ARRAY_INDEX = "AWS_BATCH_JOB_ARRAY_INDEX"
    ARRAY_SIZE = "AWS_BATCH_JOB_ARRAY_SIZE"
    ATTEMPT = "AWS_BATCH_JOB_ATTEMPT"
    QUEUE = "AWS_BATCH_JQ_NAME"
    COMPUTE_ENVIRONMENT = "AWS_BATCH_CE_NAME"


#: Set by ECS's agent in every container that it starts, and nowhere else.
#: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html
METADATA = "ECS_CONTAINER_METADATA_URI_V4"
#: `AWS_ECS_EC2` or `AWS_ECS_FARGATE`.
EXECUTION = "AWS_EXECUTION_ENV"
ON_EC2 = "AWS_ECS_EC2"


class CommandExit(IntEnum):
    """Exit codes of `python main.py` and `batch-pipeline`."""

    DONE = 0
    #: At least one cell failed, or the command could not do what it says.
    FAILED = 1
    #: The command line, configuration, sample list or pipeline is wrong; nothing was done.
    USAGE = 2
    #: Another driver or live jobs stand in the way; nothing was done.
    CONFLICT = 3
    #: The store, the backend or the scheduler could not be reached.
    UNREACHABLE = 4
    #: Ctrl-C. What became of the jobs was said.
    INTERRUPTED = 130


class ContainerExit(IntEnum):
    """Exit codes of the container; a script's own codes pass through. The receipt or failure record says more."""

    DONE = 0
    STEP_FAILED = 1
    #: awslabs' fetch-and-run: used wrongly.
    USAGE = 2
    CONTRACT_BROKEN = 64
    INVALID_OUTPUT = 65
    MISSING_INPUT = 66
    #: The store could not be reached: try again.
    STORE_UNREACHABLE = 69
    DISK_FULL = 74
    #: Interrupted: put me back. Never 0, 137 or 143: Batch takes 0 for success whatever the status reason says.
    INTERRUPTED = 75


class EndReason(Enum):
    """Why an attempt ended. The value is the word in records; the comment beside each says when it applies."""

    FINISHED = "finished"  #: It did what it should.
    STEP_FAILED = "step_failed"  #: The tool said that it failed.
    INVALID_OUTPUT = "invalid_output"  #: The tool ended well and left a wrong result.
    MISSING_INPUT = "missing_input"  #: A file that it needs was not there or not fit for it.
    OUT_OF_MEMORY = "out_of_memory"  #: It needed more memory than its job has.
    DISK_FULL = "disk_full"  #: No space was left.
    TIMEOUT = "timeout"  #: It ran longer than its time limit.
    INTERRUPTED = "interrupted"  #: A signal or a lost host ended it; not the sample's fault.
    IMAGE = "image"  #: Its image could not be had.
    CONTRACT = "contract"  #: The environment, manifest or bundle was not as agreed.
    STORE = "store"  #: The store could not be reached.
    DEPENDENCY = "dependency"  #: It never ran: something that it needs failed.
    CANCELLED = "cancelled"  #: Somebody cancelled it.
    LOST = "lost"  #: It ended and nobody knows how.

    @classmethod
    def of_exit(cls, code: int) -> EndReason:
        """What an exit code of the container means; one that is not among ours is the step's own."""
        return REASON_OF_EXIT.get(code, cls.STEP_FAILED)

    @property
    def words(self) -> str:
        """The reason as people say it: `out of memory`."""
        # The file of a sample is most often there, and cut off, empty or of another kind.
        return "bad input" if self is EndReason.MISSING_INPUT else self.value.replace("_", " ")

    @property
    def is_blameless(self) -> bool:
        """Whether it is the fault of neither sample nor step, so that the same may end well another time."""
        return self.is_retried or self is EndReason.LOST

    @property
    def is_retried(self) -> bool:
        """Whether the scheduler itself tries a child again after it."""
        return self in (EndReason.INTERRUPTED, EndReason.STORE)


#: What our exit codes mean, and those of two signals. `EndReason.of_exit` reads it.
REASON_OF_EXIT: dict[int, EndReason] = {
    ContainerExit.DONE: EndReason.FINISHED,
    ContainerExit.CONTRACT_BROKEN: EndReason.CONTRACT,
    ContainerExit.INVALID_OUTPUT: EndReason.INVALID_OUTPUT,
    ContainerExit.MISSING_INPUT: EndReason.MISSING_INPUT,
    ContainerExit.STORE_UNREACHABLE: EndReason.STORE,
    ContainerExit.DISK_FULL: EndReason.DISK_FULL,
    ContainerExit.INTERRUPTED: EndReason.INTERRUPTED,
    # SIGKILL, which anybody may send: most likely, unless words or the failure record say otherwise.
    137: EndReason.OUT_OF_MEMORY,
    143: EndReason.INTERRUPTED,
}

#: AWS's words in a status reason or container reason, by prefix, in either case; the first that fits decides,
#: before any exit code. Timeout stands before memory: a timed-out container is killed with 137 too. "Task failed to
#: start" stands last: the container's reason says more where there is one.
REASON_OF_STATUS: tuple[tuple[str, EndReason], ...] = (
    ("Job attempt duration exceeded timeout", EndReason.TIMEOUT),
    ("Dependent Job failed", EndReason.DEPENDENCY),
    ("Host EC2", EndReason.INTERRUPTED),
    ("Your Spot Task was interrupted", EndReason.INTERRUPTED),
    ("CannotPull", EndReason.IMAGE),
    ("OutOfMemoryError", EndReason.OUT_OF_MEMORY),
    ("Container killed due to memory usage", EndReason.OUT_OF_MEMORY),
    ("CannotStartContainerError", EndReason.IMAGE),
    ("CannotCreateContainerError", EndReason.IMAGE),
    ("CannotInspectContainerError", EndReason.LOST),
    ("ResourceInitializationError", EndReason.IMAGE),
    ("Container Overrides length", EndReason.CONTRACT),
    ("Canceled by JobStateTimeLimit action", EndReason.CANCELLED),
    ("JobQueue deleted", EndReason.CANCELLED),
    ("Task failed to start", EndReason.IMAGE),
)
