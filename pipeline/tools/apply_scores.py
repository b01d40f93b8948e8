"""Entry point: scores from outside into new shards: kept, used to leave images out, and to assign images to texts.

    python pipeline/tools/apply_scores.py --shards A --similarities S --assign unordered --scores nsfw=N --min similarity=0.15 --max nsfw=0.1 --output B
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.applying import ApplyConfig, apply_to_set


def main(settings: ApplyConfig) -> None:
    set_up_logging()
    report = apply_to_set(settings)
    for kind in ("documents", "images"):
        reasons = ", ".join(f"{count} {reason}" for reason, count in report[kind]["dropped"].items())
        print(f"{report[kind]['out']} of {report[kind]['in']} {kind}" + (f"; left out: {reasons}" if reasons else ""))
    print(f"{report['shards']} shards: {settings.output}")


if __name__ == "__main__":
    run_command(ApplyConfig, main, description=__doc__.splitlines()[0])
