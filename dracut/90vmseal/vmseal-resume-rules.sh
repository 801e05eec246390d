#!/bin/sh
# Where systemd does not resume from hibernation, dracut's own rule queues a job that does, as soon as
# udev sees an image. The job gets the gate before it.

if [ -f /etc/udev/rules.d/99-resume.rules ]; then
    sed -i 's|--name 00resume |&/usr/bin/vmseal-before-resume |' /etc/udev/rules.d/99-resume.rules
fi
