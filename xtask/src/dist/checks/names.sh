# Host names: /etc/hosts, then DNS, whatever nsswitch.conf says, and never a library of this system.
cd /root/try
umbra-vault init names >/dev/null
umbra-vault serve --store names --listen 127.0.0.1:18407 >names.txt 2>&1 &
vault=$!
for _ in $(seq 100); do
    grep -q '^umbra-vault serves ' names.txt && break
    sleep 0.1
done

enrolled() {
    rm -f names.toml names.key
    token=$(umbra-vault agent token --store names --machine "$1" --address "$2:18407")
    umbra --config names.toml enroll "$token" >enroll.txt 2>&1
}
must_enrol() {
    enrolled "$1" "$2" || { echo "$1: $2 is not found"; cat enroll.txt; exit 1; }
}

must_enrol a localhost
must_enrol b vault.test
echo "nameserver $NAMESERVER" >/etc/resolv.conf
must_enrol c dns.test
if enrolled d nosuch.test; then echo "a name that does not exist was found"; exit 1; fi
grep -q 'nosuch.test' enroll.txt

# Modules of this system's C library, which is another one than ours, in front of ours; and such as are not there.
printf 'hosts: hesiod compat mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return]\n' >/etc/nsswitch.conf
must_enrol e vault.test
must_enrol f dns.test
rm /etc/nsswitch.conf
must_enrol g vault.test

kill -TERM "$vault"
wait "$vault"
rm -rf names /etc/umbra
echo "    names: hosts file, DNS, unknown name refused, foreign nsswitch.conf ignored"
