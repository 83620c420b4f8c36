"""Score clips by learned reward models: a CLIP in this process, HPSv3 and VideoAlign in their own environments."""
