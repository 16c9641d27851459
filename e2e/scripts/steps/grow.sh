#!/bin/sh
# The root file system takes all of the disk, which was grown when golden was cloned.
set -eu

source=$(findmnt -n -o SOURCE /)
fstype=$(findmnt -n -o FSTYPE /)
case $source in
/dev/sd*) ;;
*)
	echo "root is on $source: grow it in the template" >&2
	exit 0
	;;
esac
growpart "${source%%[0-9]*}" "${source##*[a-z]}" || [ $? -eq 1 ] # 1: nothing to grow
case $fstype in
xfs) xfs_growfs / ;;
ext4) resize2fs "$source" ;;
esac
