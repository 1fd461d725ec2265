# The sandbox's user, its home, and the directory that commands start in.
set -eu
useradd --uid 1000 --user-group --create-home --shell /bin/bash agent
install -d -o agent -g agent /work
