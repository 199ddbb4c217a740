# SPDX-License-Identifier: Apache-2.0
"""What manual pages say besides `--help`: examples, which a test has the commands read, statuses, files, variables."""

from __future__ import annotations

COMMON_EXITS: dict[int | str, str] = {
    0: "all went well",
    64: "bad options or input; nothing was started",
    70: "the machinery failed",
    130: "interrupted by Ctrl-C",
}

_OF_CLUSTERS: dict[int | str, str] = {
    0: "the job ended with 0, or an interactive cluster was shut down",
    70: "the machinery failed, or a guest was lost",
    124: "time limit: --time-limit, or SLURM's",
    143: "cancelled: `scancel`, `chslurm stop`, TERM",
    "other": "that of the job, guest 0's or, if that is 0, the largest of the others;"
    " a job may end with the same numbers, so run/summary.json in the job directory names the cause",
}

EXITS: dict[str, dict[int | str, str]] = {
    "chrun": _OF_CLUSTERS,
    "oneguest": _OF_CLUSTERS,
    "chslurm doctor": {1: "a row has failed"},
    "chslurm exec": {255: "ssh failed", "other": "the largest of the command's on the guests"},
    "chslurm image check": {1: "the image does not keep the contract"},
    "chslurm net check": {1: "a row has failed, or its control has"},
    "chslurm net workstation": {1: "status: the network is damaged", 3: "status: it is down"},
    "chslurm ssh": {255: "ssh failed", "other": "the command's in the guest"},
}

FILES = {
    "/etc/charliecloud/config.toml": "settings of the site; see chslurm-config(5)",
    "~/.config/chslurm/config.toml": "your own settings",
    "charlie.DATE_TIME/": "a job directory; see chslurm-jobdir(5)",
}

ENVIRONMENT = {
    "CHSLURM_CLUSTER": "the cluster that `chslurm` commands mean without --cluster",
    "CHSLURM_DEBUG": "when set, an unexpected error shows where in the program it happened",
    "CHSLURM_...": "settings; see chslurm-config(5)",
    "SLURM_...": "in a SLURM job: which nodes it has, and what of them",
}

SEE_ALSO = ["chrun(1)", "chslurm(1)", "oneguest(1)", "chslurm-config(5)", "chslurm-jobdir(5)", "chslurm-job(7)"]

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "chrun": (
        ("chrun --job job.sh --dir data image.qcow2", "In a batch script: a guest on each node of the job."),
        ("salloc --nodes=2 chrun --interactive --curses image.qcow2", "Two guests to work in by hand."),
        ("vcluster -n 4 --ram 1G --job job.sh image.qcow2 -- --steps 100", "Four guests on a workstation."),
    ),
    "oneguest": (("oneguest --ram 4G --commit 0 image.qcow2", "Install something into an image, by hand."),),
    "chslurm": (
        ("chslurm ps", "Your clusters that run."),
        ("chslurm exec --all -- uptime", "A command on all guests."),
    ),
    "chslurm completion": (('eval "$(chslurm completion bash)"', "For this shell only."),),
    "chslurm config": (("chslurm config show", "Every setting, and where its value comes from."),),
    "chslurm config check": (("chslurm config check --site config.toml", "A new file, before it takes effect."),),
    "chslurm config sample": (("chslurm config sample --site", "A site's file to start from."),),
    "chslurm config show": (("chslurm config show", "Every setting, and where its value comes from."),),
    "chslurm console": (("chslurm console 1", "The console of guest 1; Ctrl-] q leaves it."),),
    "chslurm doctor": (("salloc --nodes=2 chslurm doctor --nodes image.qcow2", "All nodes of a job."),),
    "chslurm exec": (("chslurm exec -w 0,2-3 -- df -h /ch/tmp", "On some guests."),),
    "chslurm image": (("chslurm image info image.qcow2", "What an image is."),),
    "chslurm image build": (("chslurm image build --include gfortran -o image.qcow2", "One more package in it."),),
    "chslurm image check": (("chslurm image check image.qcow2", "After a change by hand."),),
    "chslurm image commit": (("chslurm image commit charlie.20260102_030405 0", "A commit that was put off."),),
    "chslurm image create": (("chslurm image create --size 32G image.qcow2", "For oneguest --boot."),),
    "chslurm image history": (("chslurm image history image.qcow2", "Who made it, and who changed it."),),
    "chslurm image info": (("chslurm image info --json image.qcow2", "For a program."),),
    "chslurm logs": (("chslurm logs --follow --job", "What the job prints, as it comes."),),
    "chslurm net": (("chslurm net check image.qcow2", "Whether filters hold, here."),),
    "chslurm net check": (("salloc --nodes=2 chslurm net check --short image.qcow2", "Between two nodes."),),
    "chslurm net epilog": (("chslurm net epilog --explain", "What root would do after the job SLURM_JOB_ID."),),
    "chslurm net prolog": (("chslurm net prolog --explain", "What root would do for the job SLURM_JOB_ID."),),
    "chslurm net workstation": (("chslurm net workstation start --explain", "What root would do."),),
    "chslurm paths": (("chslurm paths", "Where templates, examples and pages are."),),
    "chslurm ps": (("chslurm ps --all", "Those that have ended here, too."),),
    "chslurm report": (("chslurm report charlie.20260102_030405", "What happened, as a picture."),),
    "chslurm ssh": (("chslurm ssh 1 -- tail -f /var/log/dpkg.log", "A command on guest 1."),),
    "chslurm status": (("chslurm status --json", "For a program."),),
    "chslurm stop": (("chslurm stop --cluster charlie", "By the beginning of its name."),),
    "chslurm template": (("chslurm template list", "Which there are."),),
    "chslurm template list": (("chslurm template list", "Which there are."),),
    "chslurm template new": (
        ("chslurm template new chjob --image image.qcow2 --job work.sh --nodes 4", "A job on four nodes."),
        ("chslurm template new chmpi --image image.qcow2 --dir project -- ./solver", "An MPI program in project/."),
    ),
    "chslurm template show": (("chslurm template show charray", "To be read, or sent into a file."),),
}
