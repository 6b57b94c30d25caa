# The Debian packages in the same system, without what the tarball brought.
rm -r /usr/local/bin/umbra /usr/local/bin/umbra-vault /usr/local/lib/systemd /usr/local/lib/sysusers.d \
    /usr/local/share/bash-completion /usr/local/share/zsh /usr/local/share/fish
hash -r
agent=$(echo /packages/umbra_*.deb)
vault=$(echo /packages/umbra-vault_*.deb)

# The agent alone: it needs nothing, and says what a vault in a directory would need.
[ -z "$(dpkg-deb --field "$agent" Depends)" ]
[ "$(dpkg-deb --field "$agent" Recommends)" = umbra-vault ]
dpkg -i "$agent" >/dev/null
[ "$(command -v umbra)" = /usr/bin/umbra ]
[ "$(umbra --version)" = "umbra $VERSION" ]
if umbra init /root/try/alone >alone.txt 2>&1; then echo "a store without a vault"; exit 1; fi
grep -q umbra-vault alone.txt

dpkg -i "$vault" >/dev/null
[ "$(umbra-vault --version)" = "umbra-vault $VERSION" ]
umbra demo >/tmp/demo.txt 2>&1 || { cat /tmp/demo.txt; exit 1; }
grep -q 'equals the original, byte for byte' /tmp/demo.txt
for name in umbra umbra-vault; do
    [ "$(dpkg-query --show --showformat '${Status}' "$name")" = "install ok installed" ]
    gzip -dc "/usr/share/man/man1/$name.1.gz" | grep -q '^\.TH '
    [ -s "/usr/share/bash-completion/completions/$name" ]
    [ -s "/usr/share/zsh/vendor-completions/_$name" ]
    [ -s "/usr/share/fish/vendor_completions.d/$name.fish" ]
    [ -s "/usr/share/doc/$name/copyright" ]
done
dpkg --verify umbra umbra-vault

# As the unit does it: the user, its directory, /run/umbra, the store of vault.toml; asked by root without --store.
[ "$(stat -c %U:%G:%a /var/lib/umbra-vault)" = umbra-vault:umbra-vault:750 ]
runuser -u umbra-vault -- umbra-vault init /var/lib/umbra-vault/store >/dev/null
install -d -o umbra-vault -g umbra-vault -m 0700 /run/umbra
XDG_RUNTIME_DIR=/run runuser -u umbra-vault -- umbra-vault serve --listen 127.0.0.1:0 >serve.txt 2>&1 &
for _ in $(seq 100); do
    grep -q '^umbra-vault serves /var/lib/umbra-vault/store ' serve.txt && break
    sleep 0.1
done
umbra-vault --json status >status.txt
# Only a vault that runs says where it listens.
grep -q '"listen":"127.0.0.1:' status.txt || { cat serve.txt status.txt; exit 1; }
running=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' status.txt)
kill -TERM "$running"
wait

# Installed over itself; changed configuration stays; removed; purged: the store is still there.
echo 'listen = "127.0.0.1:18408"' >>/etc/umbra/vault.toml
dpkg -i "$agent" "$vault" >/dev/null
grep -q 18408 /etc/umbra/vault.toml
dpkg -r umbra >/dev/null
[ ! -e /usr/bin/umbra ]
dpkg -P umbra-vault >/dev/null
[ ! -e /usr/bin/umbra-vault ]
[ ! -e /etc/umbra/vault.toml ]
[ -e /var/lib/umbra-vault/store/FORMAT ]
# For the checks from outside.
dpkg -i "$vault" >/dev/null
echo "    packages: agent alone, vault, demo, as the unit runs it, upgrade, removal, purge keeps the store"
