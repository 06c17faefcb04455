# Completion of kaiso(1) in fish.
#
# Commands and options are read from --help, so this file knows none of them, only what their values are and
# which words follow. Services are asked of the router that the line names, for a second at most. What a
# router says is hostile: it is compared and printed, fish quotes it, and it is never evaluated.

# The program that the line runs when it names one by its path, else that of $PATH. $argv: its word.
function __kaiso_find
    set -l path (string replace -r '^~/' $HOME/ -- $argv[1])
    if string match -q '*/*' -- $path
        set path (string replace -r '/[^/]*$' /kaiso -- $path)
        if test -x $path
            echo -- $path
            return
        end
    end
    echo kaiso
end

# $argv: the program, its words
function __kaiso_run
    command -q $argv[1]; and command $argv </dev/null 2>/dev/null
end

# ---- what --help says

function __kaiso_commands -a kaiso
    set -l is_list
    for line in (__kaiso_run $kaiso --help)
        if test "$line" = Commands:
            set is_list yes
        else if set -q is_list[1]
            string match -qr '^  [a-z]' -- $line; or break
            string replace -r '^  ([a-z][a-z-]*) +' '$1\t' -- $line
        end
    end
    printf '%s\t%s\n' --help 'print the list of commands' --version 'print the version'
end

# A line for each option: long, short or nothing, argument or nothing, and what it is for, parted by tabs.
function __kaiso_options -a kaiso command
    __kaiso_run $kaiso $command --help |
        string replace -rf '^ +(?:(-[A-Za-z]), )?(--[a-z][a-z-]*)(?: ([A-Z[][^ ]*))?(?: +(.*))?$' '$2\t$1\t$3\t$4'
end

# ---- what a router says

# $argv: the program, and the router, the usual one when none is given
function __kaiso_services
    begin
        if set -q argv[2]
            __kaiso_run $argv[1] ls --timeout 1s -- $argv[2]
        else
            __kaiso_run $argv[1] ls --timeout 1s
        end | head -n 2000 | head -c 1000000
        printf '\001'
    end | string match -rv '^-|[\p{C}\p{Zl}\p{Zp}]'
    # A name that was cut off has that mark behind it. Another that a terminal could not show, or that would be taken
    # for an option, is left to be typed.
end

# Directories: what has a slash behind it in the name of a service.
function __kaiso_directories
    set -l names (__kaiso_services $argv | string match -r '^.+/')
    while set -q names[1]
        printf '%s\n' $names
        set names (string match -rg '^(.+/)[^/]*/$' -- $names)
    end | sort -u
end

# Where a router is; "url" behind the program and the word: also a URL with the service.
function __kaiso_address -a kaiso word url
    switch $word
        case 'unix:*'
            set -l path (string sub -s 6 -- $word)
            printf 'unix:%s\n' (__fish_complete_path $path | string replace -r '\t.*' '')
        case 'kaiso://*/*'
            set -l router (string match -r '^kaiso://[^/]*' -- $word)
            test "$url" = url; or return
            __kaiso_services $kaiso $router | string escape --style=url | string replace -r -- '^' $router/
        case '?*'
            __fish_print_hostnames
    end
end

# KAISO=SERVICE, or a URL
function __kaiso_route -a kaiso word
    set -l router (string match -rg '^([^=]*)=' -- $word)
    if set -q router[1]; and not string match -q 'kaiso://*' -- $word
        __kaiso_services $kaiso $router | string replace -r -- '^' $router=
    else
        __kaiso_address $kaiso $word url
    end
end

# ---- words behind a command

function __kaiso_value -a kaiso command option word
    switch $option
        case --services
            __fish_complete_directories $word ''
        case --cacert --cert --key --password-file
            __fish_complete_path $word
        case --log-level
            printf '%s\n' error warning info debug
        case --log-format
            printf '%s\n' logfmt json
        case --relay-up --relay-down
            printf '%s\n' auto splice copy
        case --mode
            printf '%s\n' auto seccomp preload
        case --route
            __kaiso_route $kaiso $word
        case --user
            # To etcd it is another kind of user.
            test $command = mirror; or __fish_complete_users
    end
end

# $argv: the program, the command, the current word, and the words before it that are no options
function __kaiso_operand -a kaiso command word
    set -l given $argv[4..]
    set -l router $given[1]
    set -l has_service
    string match -q 'kaiso://*/*' -- $router; and set has_service yes
    switch $command:(count $given)
        case 'serve:*'
            __kaiso_address $kaiso $word
        case connect:0
            __kaiso_services $kaiso
            __kaiso_address $kaiso $word url
        case connect:1
            set -q has_service[1]; or __kaiso_services $kaiso $router
        case ls:0
            __kaiso_directories $kaiso
            __kaiso_address $kaiso $word
        case ls:1
            set -q has_service[1]; or __kaiso_directories $kaiso $router
        case inject:0
            __kaiso_address $kaiso $word url
        case inject:1
            __kaiso_services $kaiso $router
        case 'expose:*'
            if test (math (count $given) % 2) -eq 0
                __kaiso_address $kaiso $word
            else
                __kaiso_services $kaiso $router
            end
        case passfd:0 kaiso-passfd:1
            __fish_complete_path $word
        case mirror:2
            __fish_complete_directories $word ''
    end
end

# The current word as the shell would read it, an open quote closed.
function __kaiso_current_word
    set -l word (commandline -ct)
    string unescape -- $word; or string unescape -- $word\"; or string unescape -- $word\'
end

function __kaiso_complete
    set -l tokens (commandline -opc)
    set -l word (__kaiso_current_word)
    set -l kaiso (__kaiso_find $tokens[1])
    set -l command (string replace -r '.*/' '' -- $tokens[1])
    set -l begin 2

    if string match -q 'kaiso-*' -- $command
        # kaiso-passfd is of another form, without options.
        test $command = kaiso-passfd; or set command (string replace kaiso- '' -- $command)
    else if not set -q tokens[2]
        __kaiso_commands $kaiso
        return
    else if string match -q '*:*' -- $tokens[2]
        set command serve
    else
        set command $tokens[2]
        set begin 3
    end
    set -l options
    test $command = kaiso-passfd; or set options (__kaiso_options $kaiso $command)
    set -l values (string match -rg '^([^\t]+)\t[^\t]*\t[^\t]' -- $options)

    # What was given before, and where a program of the user's begins.
    set -l given
    set -l is_end
    set -l value_of
    set -l wanted 0
    test $command = inject; and set wanted 2
    test $command = passfd; and set wanted 1
    test $command = kaiso-passfd; and set wanted 2
    for i in (seq $begin (count $tokens))
        set -l token $tokens[$i]
        if set -q value_of[1]
            set -e value_of
        else if not set -q is_end[1]; and test "$token" = --
            set is_end yes
        else if not set -q is_end[1]; and string match -q -- '-*' $token
            contains -- $token $values; and set value_of $token
        else
            set -a given $token
            test $command = inject; and string match -q 'kaiso://*' -- $given[1]; and set wanted 1
        end
        if test $wanted -gt 0 -a (count $given) -eq $wanted
            set -l first (math $i + 1)
            test "$tokens[$first]" = --; and set first (math $first + 1)
            set -l program (string escape -- $tokens[$first..])
            complete -C "$program "(commandline -ct)
            return
        end
    end

    if set -q value_of[1]
        __kaiso_value $kaiso $command $value_of "$word"
    else if not set -q is_end[1]; and set -l option (string match -rg '^(--[a-z-]+)=' -- $word)
        __kaiso_value $kaiso $command $option (string replace -r '^[^=]*=' '' -- $word) | string replace -r -- '^' $option=
    else if not set -q is_end[1]; and string match -q -- '-*' $word
        string replace -r '^([^\t]*)\t[^\t]*\t[^\t]*\t' '$1\t' -- $options
        string replace -rf '^[^\t]*\t([^\t]+)\t[^\t]*\t' '$1\t' -- $options
    else
        __kaiso_operand $kaiso $command "$word" $given
    end
end

complete -c kaiso -f -a '(__kaiso_complete)'
complete -c kaiso-expose -f -a '(__kaiso_complete)'
complete -c kaiso-inject -f -a '(__kaiso_complete)'
complete -c kaiso-passfd -f -a '(__kaiso_complete)'
