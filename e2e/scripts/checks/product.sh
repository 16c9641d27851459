#!/bin/sh
# Whether the product is installed.
set -eu
if [ -e "$PRODUCT_DIR/VERSION" ]; then echo installed; else echo absent; fi
