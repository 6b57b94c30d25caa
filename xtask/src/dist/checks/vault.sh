# A vault that is found by name, a machine that enrols, a disk that goes there and back.
mkdir -p /srv /root/try
cd /root/try
printf '127.0.0.1 localhost\n127.0.0.1 vault.test\n' >/etc/hosts

umbra-vault init /srv/vault >/dev/null
umbra-vault serve --store /srv/vault --listen localhost:18407 >serve.txt 2>&1 &
vault=$!
for _ in $(seq 100); do
    grep -q '^umbra-vault serves /srv/vault on 127.0.0.1:18407' serve.txt && break
    sleep 0.1
done
grep -q '^umbra-vault serves ' serve.txt || { cat serve.txt; exit 1; }

token=$(umbra-vault agent token --store /srv/vault --machine web1 --address vault.test:18407)
umbra enroll "$token" >/dev/null
dd if=/dev/urandom of=disk.img bs=1M count=8 status=none
truncate -s 64M disk.img
umbra --disk d backup disk.img >backup.txt
umbra recover latest --to back.img >recover.txt
cmp disk.img back.img
umbra verify latest >/dev/null
umbra-vault status --store /srv/vault >/dev/null

kill -TERM "$vault"
wait "$vault"
umbra-vault rebuild-index --store /srv/vault >/dev/null
rm -rf /srv/vault /etc/umbra
echo "    vault: served by name, enrolled, backed up, recovered, equal; ended by SIGTERM; index rebuilt"
