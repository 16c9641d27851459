package sshx
