"""The bench of faults in published code.

    python -m faults.published --fast-dllm PATH [--llada PATH] [--dream PATH] [--dllm PATH]
        [--es-dllm PATH] [--dkv-cache PATH] [--sdar PATH] [--open-dllm PATH] [--dinfer PATH]
        [--dllm-cache PATH] [--d2cache PATH] [--heldout | --unseen] [--only NAME ...] [--jobs N]
        [-o scores.json] [--scores scores.md]

Each path is a local checkout; what is not given is skipped, with a word.
"""

from __future__ import annotations

from pathlib import Path

import click

from faults.published import bench, table
from skipstone.errors import ConfigError
from skipstone.outputs import write_whole

_CHECKOUT = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.option("--fast-dllm", type=_CHECKOUT, help="github.com/NVlabs/Fast-dLLM")
@click.option("--llada", type=_CHECKOUT, help="github.com/ML-GSAI/LLaDA")
@click.option("--dream", type=_CHECKOUT, help="A folder with modeling_dream.py, as of Dream-v0")
@click.option("--dllm", type=_CHECKOUT, help="github.com/ZHZisZZ/dllm")
@click.option("--es-dllm", type=_CHECKOUT, help="github.com/zhuzj19/ES-dLLM")
@click.option("--dkv-cache", type=_CHECKOUT, help="github.com/horseee/dKV-Cache")
@click.option("--sdar", type=_CHECKOUT, help="github.com/JetAstra/SDAR")
@click.option("--open-dllm", type=_CHECKOUT, help="github.com/pengzhangzhi/Open-dLLM")
@click.option("--dinfer", type=_CHECKOUT, help="github.com/inclusionAI/dInfer")
@click.option("--dllm-cache", type=_CHECKOUT, help="github.com/maomaocun/dLLM-cache")
@click.option("--d2cache", type=_CHECKOUT, help="github.com/Kamichanw/d2Cache")
@click.option("--heldout", is_flag=True, help="Faults chosen without knowing the rules.")
@click.option("--unseen", is_flag=True, help="Faults of a later judge, chosen likewise.")
@click.option("--only", multiple=True, help="Faults whose name contains this; repeatable.")
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write all outcomes as JSON.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write a line for every trial.")
@click.option("--docs", type=click.Path(path_type=Path), help="Put the shares into this page.")
def main(
    only: tuple[str, ...],
    jobs: int,
    out: Path | None,
    scores: Path | None,
    docs: Path | None,
    *,
    heldout: bool,
    unseen: bool,
    **checkouts: Path | None,
) -> None:
    """Plant every fault, and score what the diagnosis says."""
    given = {name.replace("_", "-"): path for name, path in checkouts.items()}
    if heldout and unseen:
        raise click.UsageError("--heldout and --unseen are two benches: pass one")
    chosen = "heldout" if heldout else "unseen" if unseen else "planted"
    try:
        done = bench.outcomes(given, only, jobs, chosen)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo(table.summary(done))
    if scores is not None:
        write_whole(scores, table.scores(done, bench.commit()))
    if docs is not None:
        table.insert(docs, done, "published" if chosen == "planted" else chosen)
    if out is not None:
        table.write_json(out, done)


if __name__ == "__main__":
    main()
