"""Serve a reward model on standard input and output. Runs in the model's own environment: imports nothing of Longtake.

python model_script.py hpsv3 DEVICE [CHECKPOINT]
python model_script.py videoalign DEVICE CHECKPOINT CODE
"""

import json
import os
import sys
import threading
import time


def hpsv3(device, weights=None):
    """Load HPSv3; its score of a clip is the mean over pictures of the preference's mean."""
    from hpsv3 import HPSv3RewardInferencer

    model = HPSv3RewardInferencer(device=device, **({} if weights is None else {"checkpoint_path": weights}))

    def rate(prompt, files):
        scores = [float(score[0]) for score in model.reward(prompts=[prompt] * len(files), image_paths=files)]
        return {"hpsv3": sum(scores) / len(scores)}

    return rate


def videoalign(device, weights, code):
    """Load VideoAlign's VideoReward; VQ, MQ and TA are normalised by its own means and deviations."""
    sys.path.insert(0, code)
    from inference import VideoVLMRewardInference

    model = VideoVLMRewardInference(weights, device=device)

    def rate(prompt, files):
        (scores,) = model.reward(files, [prompt], use_norm=True)
        return {name: float(scores[name]) for name in ("VQ", "MQ", "TA")}

    return rate


def serve(rate, requests, answers):
    """Answer one line of JSON for each line of requests, until they end."""
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"id": request["id"], "scores": rate(request["prompt"], request["files"])}
        except Exception as error:  # of a package that is not ours: the next clip may be another matter
            answer = {"id": request["id"], "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(answer), file=answers, flush=True)


def end_with(parent):
    """End this process with its parent, in a thread: a model that hangs does not see its standard input end."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    own_output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # models print on standard output
    kind, *arguments = sys.argv[1:]
    serve({"hpsv3": hpsv3, "videoalign": videoalign}[kind](*arguments), sys.stdin, own_output)
