#!/bin/sh
# A job of the initqueue, before those of cryptroot-ask: sourced about twice a second, until it removes
# itself. cryptroot-ask passes over what is open, and what it believes to have asked for.

# shellcheck disable=SC2154  # dracut sets job

vmseal_outcomes=$(/usr/bin/vmseal-unlock)
case $? in
    # A device is missing, or the passphrase was wrong.
    3 | 16) ;;
    17)
        while read -r vmseal_code vmseal_name; do
            [ "$vmseal_code" != 17 ] || : >"/tmp/cryptroot-asked-$vmseal_name"
        done <<END
$vmseal_outcomes
END
        case "
$vmseal_outcomes" in
            *"
3 "*) ;;
            *) rm -f -- "$job" ;;
        esac
        ;;
    *)
        rm -f -- "$job"
        ;;
esac
unset vmseal_outcomes vmseal_code vmseal_name
