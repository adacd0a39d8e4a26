# bash completion for sockleak. A test compares its options with those of `sockleak help COMMAND`.

_sockleak_format_options="--format= --output= --suppressions= --baseline= --fail-on= --exit-code=
    --show= --max-sockets= --explain --sites --time-wait --color= --verbose --suggest --help"

_sockleak_values() { # the values of an option; status 1 where any file may be one
    case $1:$2 in
    scan:--format | reap:--format) echo "text json" ;;
    *:--verdict) echo "eof-ignored fin-unread data-unread reset-unclosed shutdown-unclosed" ;;
    *:--format) echo "text json junit sarif github folded pprof" ;;
    *:--color) echo "auto always never" ;;
    *:--show) echo "leaks all" ;;
    *:--fail-on) echo "close-wait dead all none" ;;
    *:--signal) echo "USR1 USR2 ALRM URG WINCH IO PWR none" ;;
    *:--option)
        echo "exhaustion_interval= exit_grace_ms= exitcode= families= grace_ms= leak_after= log_path=
            max_close_wait= max_open= max_sockets= show= signal= stack_depth= verbosity="
        ;;
    *:--output | *:-o | *:--suppressions | *:--baseline | *:--ledger-dir) return 1 ;;
    *) echo ;;
    esac
}

_sockleak_options() {
    case $1 in
    run) echo "$_sockleak_format_options --quiet --ledger-dir= --option --signal= --interval= --leak-after=" ;;
    report) echo "$_sockleak_format_options --quiet" ;;
    dump) echo "$_sockleak_format_options --watch --threads" ;;
    reap) echo "--older= --verdict= --shared --dry-run --yes --format= --help" ;;
    scan) echo "--pid= --port= --older= --fail-older= --watch --peers= --format= --json --color= --help" ;;
    esac
}

_sockleak_takes_value() { # command option
    [[ $2 == -o || $2 == --option || " $(_sockleak_options "$1") " == *[[:space:]]"$2="[[:space:]]* ]]
}

# Where the command to run begins, or would begin: its own words are not for us.
_sockleak_command_index() {
    local i=2
    while ((i < COMP_CWORD)) && [[ ${COMP_WORDS[i]} == -* ]]; do
        [[ ${COMP_WORDS[i]} == -- ]] && echo $((i + 1)) && return
        if [[ ${COMP_WORDS[i + 1]-} == = ]]; then # readline breaks --option=value into three words
            i=$((i + 3))
        elif _sockleak_takes_value run "${COMP_WORDS[i]}"; then
            i=$((i + 2))
        else
            i=$((i + 1))
        fi
    done
    echo $i
}

_sockleak() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]}
    local values begin
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "run report dump reap scan help --help --version" -- "$word"))
        return
    fi
    if [[ $command == help ]]; then
        COMPREPLY=($(compgen -W "run report dump reap scan" -- "$word"))
        return
    fi
    if [[ $command == run ]]; then
        begin=$(_sockleak_command_index)
        ((begin < COMP_CWORD)) && return # as without us: -o bashdefault
        if ((begin == COMP_CWORD)) && [[ $before == -- ]]; then
            COMPREPLY=($(compgen -c -- "$word"))
            return
        fi
    fi
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    if _sockleak_takes_value "$command" "$before"; then
        if values=$(_sockleak_values "$command" "$before"); then
            COMPREPLY=($(compgen -W "$values" -- "$word"))
        else
            COMPREPLY=($(compgen -f -- "$word"))
        fi
    elif [[ $word == -* ]]; then
        COMPREPLY=($(compgen -W "$(_sockleak_options "$command")" -- "$word"))
        [[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null
    else
        case $command in
        run) COMPREPLY=($(compgen -c -- "$word")) ;;
        report) COMPREPLY=($(compgen -f -- "$word")) ;;
        dump | reap) COMPREPLY=($(compgen -W "$(cd /proc && echo [0-9]*)" -- "$word")) ;;
        esac
    fi
}

complete -o bashdefault -F _sockleak sockleak
