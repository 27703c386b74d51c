"""`gateway completion`: scripts with which shells complete commands and options."""

from __future__ import annotations

import enum
import sys
from typing import Annotated, Final

import typer

from gateway.cli.output import write

VARIABLE: Final = "_GATEWAY_COMPLETE"
"""Set by the scripts when they ask the program what may follow; typer reads it."""

SCRIPTS: Final = {
    "bash": """\
_gateway_completion() {
    local IFS=$'\\n'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        VARIABLE=complete_bash "$1" ) )
}
complete -o default -F _gateway_completion gateway otlp-gateway
""",
    "zsh": """\
#compdef gateway otlp-gateway
_gateway() {
    eval "$( env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" VARIABLE=complete_zsh $words[1] )"
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _gateway "$@"
else
    compdef _gateway gateway otlp-gateway
fi
""",
    "fish": """\
function __gateway_complete
    env VARIABLE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) (commandline -po)[1]
end
for program in gateway otlp-gateway
    complete --command $program --no-files --arguments "(__gateway_complete get-args)" \\
        --condition "__gateway_complete is-args"
end
""",
}
"""For both names of the program; a package puts the same texts where shells look for them."""


class Shell(enum.StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script(shell: str) -> str:
    """Return the script for a shell."""
    return SCRIPTS[shell].replace("VARIABLE", VARIABLE)


def completion(
    shell: Annotated[
        Shell,
        typer.Argument(
            metavar="bash|zsh|fish", help="The shell to complete in.", show_default=False
        ),
    ],
) -> None:
    """Print a script with which a shell completes commands and options of `gateway`.

    Examples:

    source <(gateway completion bash)

    gateway completion zsh > ~/.zfunc/_gateway

    gateway completion fish > ~/.config/fish/completions/gateway.fish
    """
    write(script(shell).removesuffix("\n"), sys.stdout)
