"""Print a completion of the commands' keys for a shell, made from their help.

python -m settings.completion bash|zsh

  source <(python -m settings.completion bash)     then: python train.py dmd.<TAB>
"""

import re
import runpy
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO

from models.errors import ConfigError
from settings.command import user_errors
from settings.compose import ROOT

_SCRIPT = """_longtake() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} typed keys
    case " ${{COMP_WORDS[*]}} " in
{cases}
        *) return ;;
    esac
    typed=$word  # bash cuts words at =, zsh does not
    [[ $word == = ]] && typed=$before= word=
    [[ $before == = ]] && typed=${{COMP_WORDS[COMP_CWORD-2]}}=$word
    COMPREPLY=($(compgen -W "$keys" -- "$typed"))
    [[ $word == "$typed" ]] || COMPREPLY=("${{COMPREPLY[@]#*=}}")
}}
complete -o bashdefault -o default -o nospace -F _longtake python python3 .venv/bin/python
"""
_SHORT = {"wandb.mode": "log.to=", "from_json": "from="}
"""Short forms beside the keys that they stand for."""
_PREFIX = {"bash": "", "zsh": "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"}


def completion(shell: str) -> str:
    """Write the script that completes the keys of every command, and the choices of their groups."""
    modules = {path.name: path for path in sorted(ROOT.glob("*.py"))} | {"rewards.try": ROOT / "rewards/try.py"}
    cases = []
    for name, path in modules.items():
        sys.argv = [str(path), "--help", "all"]
        with redirect_stdout(StringIO()) as shown, suppress(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
        words = [f"{key}=" for key in re.findall(r"(?m)^  ([a-z]\w*(?:\.\w+)*)  +\S", shown.getvalue())]
        words += [short for key, short in _SHORT.items() if f"{key}=" in words]
        for group, names in re.findall(r"(?m)^  (\w+)=([\w|]+)$", shown.getvalue()):
            words += [f"{group}={choice}" for choice in names.split("|")]
        cases.append(f'        *"{name} "*) keys="{" ".join(words)}" ;;')
    return _PREFIX[shell] + _SCRIPT.format(cases="\n".join(cases))


def main(arguments: list[str]) -> None:
    """Print the script for the named shell. Raises ConfigError for another."""
    if len(arguments) != 1 or arguments[0] not in _PREFIX:
        raise ConfigError("SHELL", " ".join(arguments) or None, f"none of {', '.join(_PREFIX)}", "write bash or zsh")
    print(completion(arguments[0]), end="")


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
