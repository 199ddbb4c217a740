# SPDX-License-Identifier: Apache-2.0
"""`chslurm completion`: what shells ask for to complete our commands, as click makes it."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

PROGRAMS = ("chslurm", "chrun", "vcluster", "oneguest")

_EPILOG = """\b
Install it for yourself:
  bash  echo 'eval "$(chslurm completion bash)"' >>~/.bashrc
  zsh   echo 'eval "$(chslurm completion zsh)"' >>~/.zshrc    (after compinit)
  fish  chslurm completion fish >~/.config/fish/conf.d/chslurm.fish
For all users, as root: write what it prints for bash to /etc/profile.d/chslurm-completion.sh.
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what SHELL needs to complete chslurm, chrun, vcluster and oneguest.

    It completes options, commands, names of clusters that run, numbers and names of guests, images and directories.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    for program in PROGRAMS:
        # Not the class's own method: for bash that starts one to ask its version.
        maker = kind(completion, {}, program, f"_{program.upper()}_COMPLETE")
        click.echo(ShellComplete.source(maker))
