# SPDX-License-Identifier: Apache-2.0
"""`chslurm doctor`: whether a launch would work here, or on the nodes of a job, and if not what to do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from chslurm.cli.options import DIR, find_current_directory
from chslurm.cli.tables import print_table

if TYPE_CHECKING:
    from chslurm.checkup import Finding


@click.command()
@click.argument("image", metavar="[IMAGE]", required=False)
@click.option("--nodes", is_flag=True, help="Look at all nodes of this SLURM job, in one step.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--jobbase", type=DIR, help="Where job directories will be made. Default: as for chrun.")
@click.option("--tmp-dir", type=DIR, help="Where the disk of /ch/tmp will lie. Default: as for chrun.")
@click.option("--as-node", metavar="NEEDS", hidden=True, help="Print answers for another doctor.")
def doctor(
    image: str | None, nodes: bool, as_json: bool, jobbase: str | None, tmp_dir: str | None, as_node: str | None
) -> int:
    """Try everything that a launch needs, of IMAGE too, and say what is missing and what to type then.

    Here, or with --nodes on every node of a SLURM job. It is really tried: a guest of one instruction runs, a network
    is made and thrown away. That takes a few seconds, changes nothing, and needs no rights.

    Ends with 0 when no row has failed, with 1 when one has, with 70 when the nodes could not be looked at.
    """
    from chslurm.doctor import answer_as_node, check_here, check_nodes, make_json, make_patient

    cwd = find_current_directory()
    if as_node is not None:
        place = (
            None if image is None else cwd / image,
            cwd / (jobbase or ""),
            None if tmp_dir is None else cwd / tmp_dir,
        )
        answer_as_node(as_node, *place, os.environ)
        return 0
    patient = make_patient({"image": image, "jobbase": jobbase, "tmp_dir": tmp_dir}, cwd, os.environ)
    findings = check_nodes(patient, os.environ) if nodes else check_here(patient, os.environ)
    if as_json:
        click.echo(make_json(findings), nl=False)
    else:
        _print_findings(findings)
    from chslurm.checkup import is_bad

    return 1 if is_bad(findings) else 0


def _print_findings(findings: list[Finding]) -> None:
    from chslurm.checkup import render_verdicts

    named = any(finding.nodes for finding in findings)
    rows = []
    for finding in findings:
        row = finding.row
        where = [finding.nodes or "all"] if named else []
        rows.append([*where, row.topic, row.verdict, row.found, row.remedy])
    print_table([*(["NODES"] if named else []), "WHAT", "VERDICT", "FOUND", "REMEDY"], rows)
    click.echo(render_verdicts(findings))
