"""Compute one dimension of VBench: runs by the interpreter of VBench's environment, which has none of our packages.

    python vbench_script.py JOB.json

Imports the standard library, torch and vbench alone. The job holds videos (folder of clips), prompts (by file name),
dimension, device, output (an empty folder) and result (the file to write: score by file name, whole or not at all).
"""

import json
import os
import sys


def main(path):
    """Run the job of a file."""
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    import torch
    import vbench

    every_prompt = os.path.join(os.path.dirname(vbench.__file__), "VBench_full_info.json")
    judge = vbench.VBench(torch.device(job["device"]), every_prompt, job["output"])
    judge.evaluate(
        videos_path=job["videos"],
        name=job["dimension"],
        prompt_list=job["prompts"],
        dimension_list=[job["dimension"]],
        local=True,
        read_frame=False,
        mode="custom_input",
    )
    with open(os.path.join(job["output"], job["dimension"] + "_eval_results.json"), encoding="utf-8") as file:
        _mean, clips = json.load(file)[job["dimension"]]
    scores = {os.path.basename(clip["video_path"]): float(clip["video_results"]) for clip in clips}
    partial = job["result"] + ".partial"
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(scores, file)
    os.replace(partial, job["result"])


if __name__ == "__main__":
    main(sys.argv[1])
