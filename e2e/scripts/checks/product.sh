#!/bin/sh
# Whether the product is installed.
set -eu
if [ -e "$PRODUCT_DIR" ]; then echo installed; else echo absent; fi
