"""The command `sam-hf push`: a checkpoint's folder to the Hub.

sam-hf push runs/my-sam my-org/my-sam --dry-run
sam-hf push runs/my-sam my-org/my-sam --private
sam-hf push runs/my-sam my-org/my-sam --create-pr --message "Longer training"
"""

import argparse
import sys
from collections.abc import Sequence

from sam_hf.hub.publishing import Publication, publish
from sam_hf.terminal import print_line, progress, say

__all__ = ["main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sam-hf push", description=main.__doc__)
    add = parser.add_argument
    add("folder", help='a checkpoint\'s folder, or "tiny"')
    add("repo_id", metavar="org/name", help="repository on the Hub; made if it does not exist")
    add("--private", action="store_true", default=None, help="make the repository private")
    add("--revision", help="branch, made if it does not exist; or refs/pr/N, to go on with a pull request")
    add("--create-pr", action="store_true", help="open a pull request instead of changing the main branch")
    add("--dry-run", action="store_true", help="check the checkpoint and list what would go up; sends nothing")
    add("--token", help="of the Hub (default: the one of `hf auth login`, or HF_TOKEN)")
    add("--message", default="Upload SAM checkpoint", help="first line of the commit")
    add("--license", help="the Hub's name of the weights' licence, such as apache-2.0, for the card that is written")
    add("--no-examples", action="store_true", help="add no example pictures")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish a checkpoint: weights, configuration, processor, card, training facts, example pictures, ONNX files.

    After an interruption the same command goes on where it stopped.
    """
    options = _parser().parse_args(arguments)
    with progress(f"{'checking' if options.dry_run else 'publishing'} {options.folder}"):
        done = publish(
            options.folder,
            options.repo_id,
            private=options.private,
            revision=options.revision,
            create_pr=options.create_pr,
            dry_run=options.dry_run,
            token=options.token,
            commit_message=options.message,
            examples=not options.no_examples,
            license=options.license,
        )
    if done.left_out:
        say(f"stays here: {', '.join(done.left_out)}")
    _print(done)
    return 0


def _print(done: Publication) -> None:
    for name, size in sorted(done.files.items()):
        print_line(f"{name}\t{'drawn when it is sent' if size is None else f'{size:,} bytes'}")
    for name in done.removed or ():
        print_line(f"{name}\tin the repository, {'would be' if done.dry_run else 'was'} removed")
    if done.removed is None:
        say("the Hub was not reached, or has no such repository: nothing is known of files that would be removed")
    total = sum(size or 0 for size in done.files.values()) / 1e6
    where = done.repo_id if done.revision is None else f"{done.repo_id} ({done.revision})"
    if done.dry_run:
        print_line(f"would go to {where}: {len(done.files)} files, {total:.1f} MB; nothing was sent")
    else:
        print_line(f"{len(done.files)} files, {total:.1f} MB -> {done.pr_url or done.commit_url}")


if __name__ == "__main__":
    sys.exit(main())
