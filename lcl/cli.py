"""The `lcl` command: each subcommand runs an entry point, with that entry point's own flags."""

import difflib
import os
import runpy
import select
import sys
from importlib.metadata import version

COMMANDS = {  # module, what it does, and the words that it is given before the user's
    "sample-crawl": ("pipeline.samples.sample_crawl", "make a small crawl and labelled pictures to try everything on"),
    "compose-pages": ("pipeline.samples.compose_pages", "a crawl of pages around labelled photographs, for studies of what is learned from text"),
    "build-shards": ("pipeline.build_shards", "crawl files to shards of interleaved documents"),
    "pilot": ("pipeline.planning.pilot", "what a build would give and cost, from the build of a sample"),
    "fetch-images": ("pipeline.fetch_images", "images that the crawl lacks, from their sites, politely"),
    "verify": ("pipeline.tools.verify_shards", "check every checksum, count and row of shards, and the accounts of their build"),
    "stats": ("pipeline.tools.make_stats", "histograms of shards, from their catalogues: JSON, pictures and an HTML page"),
    "view": ("pipeline.tools.view_shards", "documents of shards as searchable HTML pages"),
    "select": ("pipeline.tools.select_documents", "documents that meet a condition, as a set that copies no bytes"),
    "repack": ("pipeline.tools.repack_shards", "shuffle shards into others of a chosen size and image side"),
    "copy-shards": ("pipeline.tools.copy_shards", "a set of shards to an object store, or from there to a folder"),
    "score": ("lcl.score_shards", "similarities of images and texts, or scores of images, by any encoder, as parquet"),
    "apply-scores": ("pipeline.tools.apply_scores", "put such scores into shards: kept, as limits for images, to assign images to texts"),
    "remove": ("pipeline.tools.remove_documents", "take documents and images down from shards, in place"),
    "card": ("pipeline.tools.write_card", "a README for a set of shards: sources, licences, filters, counts, how to load it"),
    "train-tokenizer": ("lcl.train_tokenizer", "a byte-level tokenizer from the texts of shards, in the place of CLIP's"),
    "plan": ("lcl.plan", "what a training and a build would take on a machine: memory, time, money, storage"),
    "doctor": ("lcl.doctor", "what is wrong with machines, networks and folders, and which rank of a run is late"),
    "pretrain": ("lcl.pretrain", "pretrain an encoder on shards"),
    "import-published": ("lcl.import_published", "the authors' checkpoint as one of ours, to evaluate or start from"),
    "export": ("lcl.export", "the encoder for timm, transformers, open_clip or onnxruntime, checked against ours"),
    "eval linear-probe": ("lcl.eval_linear_probe", "linear probe of an encoder on labelled images"),
    "eval attentive-probe": ("lcl.eval_attentive_probe", "attentive probe of its patch tokens"),
    "eval knn": ("lcl.eval_knn", "classification by the nearest training images"),
    "eval few-shot": ("lcl.eval_few_shot", "classification from a few images of each class"),
    "eval zero-shot": ("lcl.eval_zero_shot", "zero-shot classification of labelled images"),
    "eval all": ("lcl.eval_all", "all of the above from one cache of features"),
    "eval retrieval": ("lcl.eval_retrieval", "images by their captions, and captions by their images"),
    "eval context-retrieval": ("lcl.eval_context_retrieval", "images of shards by the text and images before them"),
    "eval dense-probe": ("lcl.eval_dense_probe", "a linear probe of its patch tokens on scenes composed of labelled images"),
    "eval fine-tune": ("lcl.eval_fine_tune", "the whole encoder trained to classify, beside the same from random weights"),
    "eval captioning": ("lcl.eval_captioning", "a small decoder trained to describe images by frozen patch tokens"),
    "eval compare": ("lcl.eval_compare", "two results on the same images: a paired test"),
    "embed": ("lcl.embed", "features of a folder of images or of shards by an encoder, as parquet or safetensors"),
    "search": ("lcl.search", "nearest neighbours of images or texts among such features, as an HTML page"),
    "attention-maps": ("lcl.attention_maps", "where an encoder's pooling looks, as pictures over the images"),
    "train codec": ("downstream.train_codec", "train an image codec on a folder of photographs"),
    "codec encode": ("downstream.codec_encode", "compress pictures with a trained codec"),
    "codec decode": ("downstream.codec_decode", "compressed pictures back to PNG"),
    "codec info": ("downstream.codec_info", "what is in compressed pictures, and whether they are whole"),
    "codec verify": ("downstream.codec_info", "the same: whether compressed pictures are whole, and with their codec whether they decode"),
    "codec import": ("downstream.import_codec", "published weights of CCA or of CompressAI's mean-scale hyperprior as a codec of ours"),
    "codec eval": ("downstream.eval_codec", "rate and quality of a codec beside JPEG, WebP, AVIF and JPEG 2000"),
    "train restorer": ("downstream.train_restorer", "train a restorer on a folder of photographs, or of pairs"),
    "train detector": ("downstream.train_detector", "train a head on an encoder to say what spoils pictures"),
    "detect": ("downstream.detect_degradation", "what spoils pictures, and how much, by a trained detector"),
    "restore": ("downstream.restore_images", "restore spoilt pictures with a trained restorer"),
    "eval detector": ("downstream.eval_detector", "how often a detector names what spoils photographs"),
    "eval restorer": ("downstream.eval_restorer", "quality, seconds and memory of restorers beside classical filters"),
    "train density": ("downstream.train_density", "train a density model, a diffusion model with a learned noise schedule"),
    "density encode": ("downstream.density_encode", "image files to one archive without loss, by a density model"),
    "density decode": ("downstream.density_decode", "the files of such an archive"),
    "density info": ("downstream.density_info", "what is in an archive, and whether its bytes are whole"),
    "density verify": ("downstream.density_verify", "whether every file of an archive comes back"),
    "density sample": ("downstream.density_sample", "new images from a density model, as a grid"),
    "density eval": ("downstream.eval_density", "likelihoods of unseen images, coded bits beside PNG, WebP and lzma, and samples"),
    "gallery": ("downstream.gallery", "what the trained models make of photographs of yours, on one page to look at"),
    "fine-tune codec": ("downstream.fine_tune", "a codec trained further on photographs of yours, and whether it gained", "codec"),
    "fine-tune density": ("downstream.fine_tune", "a density model likewise", "density"),
    "fine-tune restorer": ("downstream.fine_tune", "a restorer likewise", "restorer"),
    "fine-tune encoder": ("downstream.fine_tune_encoder", "an encoder trained further on pages of yours, and whether it gained"),
    "halve": ("downstream.halve_model", "a trained codec, density model, restorer or detector with weights in half precision"),
    "cluster render": ("cluster.render", "files for Slurm, hosts, Kubernetes and Docker from one profile"),
    "flagship": ("downstream.flagship", "the whole chain on crawls and photographs of yours: shards, encoder, codec, lossless coder, restorer, each evaluated"),
    "report": ("lcl.report", "one HTML page of what was built, trained and measured"),
    "demo": ("lcl.demo", "all of the above on a small crawl, on this machine"),
}

HELP = ("-h", "--help", "help")
OURS = ("lcl", "pipeline", "downstream", "cluster")


def main() -> None:
    try:
        try:
            _run(sys.argv[1:])
        finally:
            if sys.stdout is not None:  # closed by a shell's >&-
                sys.stdout.flush()  # here, where it can be answered, and not in Python's last moment
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        print(f"error: this command takes the package {error.name!r}, which is not installed: pip install 'lcl[all]' brings what any command takes (lcl fine-tune, flagship and demo also take a checkout: clone the repository)", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while a command's modules are imported; then it answers itself (lcl.core.config.run_command)
        sys.exit(130)


def _reader_is_gone() -> bool:
    """Whether standard output is a pipe into something that ended, as `head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(state & select.POLLERR for _, state in poll.poll(0))


def _run(words: list[str]) -> None:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            from lcl.core import config  # not above: a listing needs none of its imports

            module, _, *given = COMMANDS[name]
            config.program = " ".join(["lcl", *name.split()[: length - len(given)]])
            sys.argv = [config.program, *given, *words[length:]]
            runpy.run_module(module, run_name="__main__", alter_sys=True)  # tyro reads the options' docstrings from __main__
            return
    if words == ["--version"]:
        print(version("lcl"))
        return
    group = [name for name in COMMANDS if words and name.startswith(f"{words[0]} ")]  # of `lcl eval`, `lcl codec`
    listing = "\n".join(f"  lcl {name:20} {COMMANDS[name][1]}" for name in group or COMMANDS)
    if not words or words[0] in HELP or (group and (len(words) == 1 or words[1] in HELP)):
        print(f"usage: lcl {f'{words[0]} ' if group else ''}COMMAND [OPTIONS]; --help behind a command lists its options\n\n{listing}")
        return
    wanted = " ".join(word for word in words[:2] if not word.startswith("-"))
    near = difflib.get_close_matches(wanted, COMMANDS, n=1) or difflib.get_close_matches(words[0], COMMANDS, n=1)
    print(f"error: no command is called {wanted!r}" + (f", did you mean {near[0]!r}?" if near else f"; there are:\n{listing}"), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
