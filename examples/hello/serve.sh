#!/bin/sh
# The sample's only program: write the page from the environment, then serve it.
mkdir -p /www
echo "$GREETING! I am $HOSTNAME. ($SIGNATURE)" > /www/index.html
exec httpd -f -p 8080 -h /www
