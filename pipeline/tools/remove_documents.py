"""Entry point: documents and images taken down from shards, in place, by lists of addresses, domains and hashes.

    python pipeline/tools/remove_documents.py --shards A B --domains asked-to-leave.txt --note "letter of 3 May"
"""

from lcl.core.config import run_command
from lcl.core.logs import set_up_logging
from pipeline.tools.removal import FOLDER, RemoveConfig, remove_documents


def main(settings: RemoveConfig) -> None:
    set_up_logging()
    counts = remove_documents(settings)
    print(f"removed {counts['documents']} documents and {counts['images']} images; {counts['rewritten']} of {counts['shards']} shards were rewritten")
    if counts["rewritten"]:
        print(f"what went and why: {FOLDER}/ beside the shards. Selections of them are to be made again, and copies elsewhere to be replaced.")


if __name__ == "__main__":
    run_command(RemoveConfig, main, description=__doc__.splitlines()[0])
