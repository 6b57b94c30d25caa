# The tarball, installed by the commands of the README into a system that has nothing else.
cd /packages
sha256sum --check --quiet SHA256SUMS
tar -xzf "$NAME.tar.gz" -C /tmp
cd "/tmp/$NAME"
sha256sum --check --quiet SHA256SUMS
cp -r bin lib share /usr/local/
cd /

[ "$(umbra --version)" = "umbra $VERSION" ]
[ "$(umbra-vault --version)" = "umbra-vault $VERSION" ]

umbra demo >/tmp/demo.txt 2>&1 || { cat /tmp/demo.txt; exit 1; }
grep -q 'equals the original, byte for byte' /tmp/demo.txt

for page in umbra umbra-backup umbra-recover umbra-vault umbra-vault-serve umbra-vault-agent-token; do
    grep -q '^\.TH ' "/usr/local/share/man/man1/$page.1"
done

# Typed `umbra reco`, the shell must offer `recover`.
completed() {
    bash -c '. "/usr/local/share/bash-completion/completions/$1"
        COMP_WORDS=("$1" "$2") COMP_CWORD=1
        "_$3" "$1" "$2" "$1"
        printf "%s\n" "${COMPREPLY[@]}"' bash "$1" "$2" "$(echo "$1" | sed 's/-/__/g')"
}
completed umbra reco | grep -qx recover
completed umbra-vault ser | grep -qx serve
grep -q '^#compdef umbra$' /usr/local/share/zsh/site-functions/_umbra
grep -q '^#compdef umbra-vault$' /usr/local/share/zsh/site-functions/_umbra-vault
for name in umbra umbra-vault; do
    grep -q "^complete -c $name " "/usr/local/share/fish/vendor_completions.d/$name.fish"
done

grep -qx 'ExecStart=/usr/local/bin/umbra-vault serve' /usr/local/lib/systemd/system/umbra-vault.service
echo "    tarball: sums, versions, demo, manual pages, completions, unit"
