"""Entry point: predicts what a build would give and cost (documents, bytes, core-hours, storage) from the build of a sample.

    python pipeline/planning/pilot.py --sample 0.1% --crawl /data/crawl --output /data/shards        (the options of build_shards.py; writes /data/shards.pilot.json)
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.planning.pilot_config import PRESETS, PilotConfig, whole_build
from pipeline.planning.plan import describe
from pipeline.planning.run_pilot import run_pilot, table_lines


def main(config: PilotConfig) -> None:
    set_up_logging()
    print("\n".join(table_lines(run_pilot(config))))


if __name__ == "__main__":
    run_command(PilotConfig, main, presets=PRESETS, description=__doc__.splitlines()[0], describe=lambda config: describe(whole_build(config)))
