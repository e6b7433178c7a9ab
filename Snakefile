# The book on several machines: the commands of `make grid` and `make book`, as jobs. Nothing else in the project needs Snakemake.
#
#   pip install -e '.[cluster]'
#   snakemake -n                                              what is to do at the laptop tier, with a forecast
#   snakemake --profile profiles/local --config tier=smoke    on this machine
#   snakemake --profile profiles/slurm --config tier=gpu      jobs of a Slurm cluster
#   snakemake ... runs                                        the runs alone, no chapter
#   snakemake ... --config 'parameters=["04_mast_training.seeds=[0]"]'    as `-p` of python -m mastlib.book
#
# A run that was ended, by a time limit or by hand, goes on from its last checkpoint when the workflow is started again.
import json
import sys
from pathlib import Path

from mastlib.files import outputs_dir

TIER = config.get("tier", "laptop")
GIVEN = config.get("parameters", [])
FOLDER = outputs_dir() / "grid" / TIER

if workflow.is_main_process:  # a job reads what this process laid out
    from mastlib.book import given_by
    from mastlib.grid import grid

    planned = grid(Path(workflow.basedir), TIER, given_by(GIVEN))
    planned.write()
    print(f"{TIER} tier: {planned.forecast()}", file=sys.stderr)

PLAN = json.loads((FOLDER / "grid.json").read_text())
NEEDS, AFTER, SIZE = PLAN["needs"], PLAN["after"], PLAN["asked"]
RUNS = sorted({run for runs in NEEDS.values() for run in runs})


def asked(gpus):
    """What a job asks for, that uses `gpus` GPUs if the tier is for GPUs at all."""
    wanted = {"mem_mb": SIZE["memory"], "runtime": SIZE["minutes"]}
    return wanted | ({"gpu": gpus} if gpus else {})


localrules:
    book,
    runs,


rule book:
    input:
        expand(FOLDER / "chapters" / "{chapter}.done", chapter=NEEDS),
    params:
        python=sys.executable,
        root=workflow.basedir,
        given=[word for pair in GIVEN for word in ("-p", pair)],
    shell:
        "{params.python:q} -m mastlib.book --book {params.root:q} --tier {TIER:q} {params.given:q}"


rule runs:
    input:
        expand(FOLDER / "runs" / "{run}.done", run=RUNS),


rule chapter:
    input:
        FOLDER / "chapters" / "{chapter}.json",
        lambda wildcards: expand(FOLDER / "runs" / "{run}.done", run=NEEDS[wildcards.chapter]),
        lambda wildcards: expand(FOLDER / "chapters" / "{one}.done", one=AFTER[wildcards.chapter]),
        prepared=ancient(FOLDER / "prepared.done"),
    output:
        FOLDER / "chapters" / "{chapter}.done",
    params:
        python=sys.executable,
        root=workflow.basedir,
        given=[word for pair in GIVEN for word in ("-p", pair)],
    threads: SIZE["cpus"]
    resources:
        **asked(min(1, SIZE["gpus"])),
    shell:
        "{params.python:q} -m mastlib.book --book {params.root:q} --tier {TIER:q} {params.given:q} --only {wildcards.chapter:q}"
        " && touch {output:q}"


rule fit:
    input:
        task=FOLDER / "runs" / "{run}.json",
        prepared=ancient(FOLDER / "prepared.done"),
    output:
        FOLDER / "runs" / "{run}.done",
    params:
        python=sys.executable,
        devices=max(1, SIZE["gpus"]),
    threads: SIZE["cpus"]
    resources:
        **asked(SIZE["gpus"]),
    shell:
        "{params.python:q} -m mastlib fit {input.task:q} --receipt {output:q} --devices {params.devices:q}"


rule prepare:
    output:
        FOLDER / "prepared.done",
    params:
        python=sys.executable,
        root=workflow.basedir,
        given=[word for pair in GIVEN for word in ("-p", pair)],
    threads: SIZE["cpus"]
    resources:
        **asked(min(1, SIZE["gpus"])),
    shell:
        "{params.python:q} -m mastlib.grid prepare --book {params.root:q} --tier {TIER:q} {params.given:q} && touch {output:q}"
