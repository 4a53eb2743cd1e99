# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_telesonde_global_optspecs
    string join \n config= set= h/help V/version
end

function __fish_telesonde_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_telesonde_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_telesonde_using_subcommand
    set -l cmd (__fish_telesonde_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c telesonde -n "__fish_telesonde_needs_command" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_needs_command" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_needs_command" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_needs_command" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "run" -d 'Attach the collectors and serve their metrics until told to stop'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "reload" -d 'Let the running agent read its configuration again and apply what differs'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "check" -d 'Examine this host: what works, what is missing, and how to get it'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "prepare" -d 'Make, as root, what an agent that runs as another user cannot: the directory of `pin_path`'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "list" -d 'List the collectors and what they need'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "metrics" -d 'List the metrics, or show the largest ones of the running agent'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "debug" -d 'Look into the running agent'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "config" -d 'Work with the configuration'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "completions" -d 'Print a completion script for a shell'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "gen" -d 'Write the generated documents and the reference configuration'
complete -c telesonde -n "__fish_telesonde_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand run" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand run" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand run" -l quiet -d 'Do not show the live summary'
complete -c telesonde -n "__fish_telesonde_using_subcommand run" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand run" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand reload" -l format -d 'How to print what became of it' -r -f -a "table\t'For people'
json\t'For machines'"
complete -c telesonde -n "__fish_telesonde_using_subcommand reload" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand reload" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c telesonde -n "__fish_telesonde_using_subcommand reload" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand check" -l format -d 'How to print the findings' -r -f -a "table\t'For people'
json\t'For machines'"
complete -c telesonde -n "__fish_telesonde_using_subcommand check" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand check" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c telesonde -n "__fish_telesonde_using_subcommand check" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand prepare" -l user -d 'The number of the agent\'s user' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand prepare" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand prepare" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand prepare" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand prepare" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand list" -l format -d 'How to print the list' -r -f -a "table\t'For people'
json\t'For machines'"
complete -c telesonde -n "__fish_telesonde_using_subcommand list" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand list" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand list" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c telesonde -n "__fish_telesonde_using_subcommand list" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -l format -d 'How to print the list' -r -f -a "table\t'For people'
json\t'For machines'"
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -l cardinality -d 'Ask the running agent which metrics and labels have the most series'
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c telesonde -n "__fish_telesonde_using_subcommand metrics" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -f -a "maps" -d 'List the maps in the kernel, or print the entries of one'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -f -a "programs" -d 'List the programs in the kernel: their hashes, how many instructions the verifier walked through, and the runs that the kernel skipped'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -f -a "profile" -d 'Write a CPU profile of the agent itself, as pprof reads it'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and not __fish_seen_subcommand_from maps programs profile help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from maps" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from maps" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from maps" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from maps" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from programs" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from programs" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from programs" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from programs" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -l seconds -d 'For how long, up to 60' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -s o -l output -d 'The file to write' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from profile" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from help" -f -a "maps" -d 'List the maps in the kernel, or print the entries of one'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from help" -f -a "programs" -d 'List the programs in the kernel: their hashes, how many instructions the verifier walked through, and the runs that the kernel skipped'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from help" -f -a "profile" -d 'Write a CPU profile of the agent itself, as pprof reads it'
complete -c telesonde -n "__fish_telesonde_using_subcommand debug; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -f -a "print" -d 'Print the effective configuration with the origin of every value'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -f -a "validate" -d 'Say whether the configuration is valid'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -f -a "schema" -d 'Print a JSON Schema for editors'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and not __fish_seen_subcommand_from print validate schema help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from print" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from print" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from print" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from print" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from validate" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from validate" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from validate" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from validate" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from schema" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from schema" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from schema" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from schema" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "print" -d 'Print the effective configuration with the origin of every value'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "validate" -d 'Say whether the configuration is valid'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "schema" -d 'Print a JSON Schema for editors'
complete -c telesonde -n "__fish_telesonde_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand completions" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand completions" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand completions" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand completions" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand gen" -l out -d 'The directory to write into' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand gen" -l config -d 'Read this configuration file instead of /etc/telesonde/telesonde.yaml; may be given several times' -r -F
complete -c telesonde -n "__fish_telesonde_using_subcommand gen" -l set -d 'Set one key, such as `exporters.prometheus.listen=0.0.0.0:9464`; may be given several times' -r
complete -c telesonde -n "__fish_telesonde_using_subcommand gen" -s h -l help -d 'Print help'
complete -c telesonde -n "__fish_telesonde_using_subcommand gen" -s V -l version -d 'Print version'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "run" -d 'Attach the collectors and serve their metrics until told to stop'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "reload" -d 'Let the running agent read its configuration again and apply what differs'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "check" -d 'Examine this host: what works, what is missing, and how to get it'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "prepare" -d 'Make, as root, what an agent that runs as another user cannot: the directory of `pin_path`'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "list" -d 'List the collectors and what they need'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "metrics" -d 'List the metrics, or show the largest ones of the running agent'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "debug" -d 'Look into the running agent'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "config" -d 'Work with the configuration'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "completions" -d 'Print a completion script for a shell'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "gen" -d 'Write the generated documents and the reference configuration'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and not __fish_seen_subcommand_from run reload check prepare list metrics debug config completions gen help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from debug" -f -a "maps" -d 'List the maps in the kernel, or print the entries of one'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from debug" -f -a "programs" -d 'List the programs in the kernel: their hashes, how many instructions the verifier walked through, and the runs that the kernel skipped'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from debug" -f -a "profile" -d 'Write a CPU profile of the agent itself, as pprof reads it'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "print" -d 'Print the effective configuration with the origin of every value'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "validate" -d 'Say whether the configuration is valid'
complete -c telesonde -n "__fish_telesonde_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "schema" -d 'Print a JSON Schema for editors'
