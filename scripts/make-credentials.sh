#!/usr/bin/env bash
# Make the credentials of a federation in a new folder, with openssl alone:
#   ca.key, public/ca.crt          the authority that everybody trusts; keep ca.key off the network
#   server.key, public/server.pem  the SuperLink's TLS certificate, for superlink, localhost, 127.0.0.1 and given hosts
#   node-I, public/node-I.pub      a client's ECDSA P-384 key pair, I from 0, in the format that flower-supernode wants
#   superexec.secret               what the process that runs the ServerApp shows to the SuperLink
# Private files are readable by their owner alone; a container that runs as somebody else needs them handed over (chown).
# Later, in the same folder: --add makes the key pairs of more clients, --renew a new key and certificate of the server.
set -euo pipefail

CA_DAYS=3650
SERVER_DAYS=365

usage() {
  cat >&2 <<END
usage: scripts/make-credentials.sh DIR [--nodes N] [--hosts "a b"]    make the new folder DIR
       scripts/make-credentials.sh DIR --add N                        add the key pairs of N more clients
       scripts/make-credentials.sh DIR --renew [--hosts "a b"]        renew the server's certificate, by ca.key
  --nodes  key pairs of clients (default 1)    --hosts  names and addresses of the server (renewed: those it has)
END
  exit 2
}

fail() {
  echo "error: $*" >&2
  exit 2
}

directory='' action='' nodes='' hosts=''
while [ $# -gt 0 ]; do
  case $1 in
    --nodes | --add) [ $# -gt 1 ] && [ -z "$nodes" ] || usage; nodes=$2; [ "$1" = --nodes ] || action+=add; shift 2 ;;
    --hosts) [ $# -gt 1 ] || usage; hosts=$2; shift 2 ;;
    --renew) action+=renew; shift ;;
    -*) usage ;;
    *) [ -z "$directory" ] || usage; directory=$1; shift ;;
  esac
done
[ -n "$directory" ] || usage
case $action in
  '') [ ! -e "$directory" ] || fail "$directory exists already and is not overwritten; name a new folder" ;;
  add) [ -z "$hosts" ] || usage; [ -f "$directory/public/ca.crt" ] || fail "$directory holds no credentials" ;;
  renew) [ -z "$nodes" ] || usage; [ -f "$directory/ca.key" ] || fail "$directory holds no ca.key, which signs certificates" ;;
  *) usage ;;
esac
nodes=${nodes:-1}
[[ $nodes =~ ^[1-9][0-9]{0,4}$ ]] || fail "the number of keys must be a number from 1 on, found '$nodes'"
command -v openssl >/dev/null || fail "openssl is not installed"

names=DNS:superlink,DNS:localhost,IP:127.0.0.1
read -ra given <<<"$hosts"
for host in ${given[@]+"${given[@]}"}; do
  if [[ $host =~ ^[0-9.]+$ || $host == *:* ]]; then
    names+=,IP:$host
  elif [[ $host =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]]; then
    names+=,DNS:$host
  else
    fail "--hosts takes names and addresses without ports, found '$host'"
  fi
done
if [ "$action" = renew ] && [ -z "$hosts" ]; then
  names=$(openssl x509 -in "$directory/public/server.pem" -noout -ext subjectAltName | tail -n 1 | tr -d ' ')
  names=${names//IPAddress:/IP:}
fi

# OpenSSH's key format, as hexadecimal digits: a string has its length of four bytes in front.
string() { printf '%08x%s' $((${#1} / 2)) "$1"; }
text() { string "$(printf %s "$1" | od -An -v -tx1 | tr -d ' \n')"; }
bytes() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")"; }

# Make the key pair of a node. OpenSSL's DER form of a P-384 key has the private number in bytes 9 to 56, and the public
# point in the last 97; "openssh-key-v1" wants both, unencrypted, padded to eight bytes with 1, 2, 3 ...
make_node() {
  local name=$1 der private public body check padding=1
  der=$(openssl ecparam -name secp384r1 -genkey -noout -outform DER | od -An -v -tx1 | tr -d ' \n')
  private=${der:16:96}
  while [[ $private == 00* ]]; do private=${private:2}; done
  [[ $private != [89a-f]* ]] || private=00$private # a number with its top bit set would be read as negative
  public=$(text ecdsa-sha2-nistp384)$(text nistp384)$(string "${der: -194}")
  check=$(openssl rand -hex 4)
  body=$check$check$public$(string "$private")$(text "$name")
  while ((${#body} % 16)); do body+=0$padding padding=$((padding + 1)); done
  {
    echo "-----BEGIN OPENSSH PRIVATE KEY-----"
    bytes "6f70656e7373682d6b65792d763100$(text none)$(text none)00000000""00000001$(string "$public")$(string "$body")" |
      openssl base64
    echo "-----END OPENSSH PRIVATE KEY-----"
  } >"$new/$name"
  echo "ecdsa-sha2-nistp384 $(bytes "$public" | openssl base64 -A) $name" >"$new/public/$name.pub"
}

# Make the server's key and certificate, signed by the authority in a folder.
make_server() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -keyout "$new/server.key" -subj "/CN=superlink" 2>/dev/null |
    openssl x509 -req -CA "$1/public/ca.crt" -CAkey "$1/ca.key" -set_serial "0x$(openssl rand -hex 16)" -days "$SERVER_DAYS" \
      -out "$new/public/server.pem" -extfile <(printf '%s\n' "subjectAltName=$names" basicConstraints=critical,CA:FALSE \
        keyUsage=critical,digitalSignature extendedKeyUsage=serverAuth subjectKeyIdentifier=hash \
        authorityKeyIdentifier=keyid) 2>"$new/complaints" || fail "openssl made no certificate for $names: $(tail -n 1 "$new/complaints")"
  rm "$new/complaints"
}

expiry() { openssl x509 -in "$directory/public/$1" -noout -enddate | cut -d= -f2; }

umask 077
mkdir -p "$(dirname "$directory")"
new=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$new"' EXIT
mkdir -m 755 "$new/public"
first=0
case $action in
  '')
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -noenc -keyout "$new/ca.key" -out "$new/public/ca.crt" \
      -days "$CA_DAYS" -subj "/CN=fedhar authority" -addext keyUsage=critical,keyCertSign 2>/dev/null
    make_server "$new"
    openssl rand -hex 32 >"$new/superexec.secret"
    ;;
  add) # after the highest number, so that the key of a client who left is nobody else's
    for key in "$directory"/node-* "$directory"/public/node-*.pub; do
      number=${key##*/node-} number=${number%.pub}
      [[ ! $number =~ ^[0-9]+$ ]] || ((number < first)) || first=$((number + 1))
    done
    ;;
  renew)
    make_server "$directory"
    chmod --reference="$directory/server.key" "$new/server.key" # whoever reads the old one reads the new one
    chown --reference="$directory/server.key" "$new/server.key"
    nodes=0
    ;;
esac
for ((i = first; i < first + nodes; i++)); do
  make_node "node-$i"
done
chmod 644 "$new"/public/*
if [ -z "$action" ]; then
  [ ! -e "$directory" ] || fail "$directory exists already and is not overwritten; name a new folder"
  mv "$new" "$directory"
else
  mv -f "$new"/public/* "$directory/public/"
  rmdir "$new/public"
  mv -f "$new"/* "$directory/"
fi

[ "$action" = renew ] || echo "$directory: $nodes node keys, node-$first to node-$((first + nodes - 1)), which do not expire"
[ "$action" = add ] || echo "$directory: server certificate for ${names//,/, }, expires on $(expiry server.pem)"
[ -n "$action" ] || echo "$directory: authority, expires on $(expiry ca.crt)"
