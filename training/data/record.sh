#!/bin/bash
# Runs Debian's services for a short while on loopback addresses under made-up load, and keeps what they log.
#
#   record.sh OUT        (as root, on a machine of no importance: it starts daemons and creates users' mail)
#
# Packages: nginx-light apache2-bin postgresql rsyslog postfix openssh-server openssh-client sshpass haproxy
# redis-server squid bind9 dnsmasq-base mariadb-server zookeeper; `pip install pyspark` for Spark (PYSPARK=python).
# A service that is not installed is skipped with a line that says so.
set -u
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd) && work=$(mktemp -d) && chmod 755 "$work" && mkdir -p "$work/www"
pids=()
stop() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null; done; pids=(); }
trap 'stop; rm -rf "$work"' EXIT
need() { command -v "$1" >/dev/null || [ -e "$1" ] || { echo "skipped: $1 is not installed"; return 1; }; }
back() { "$@" & pids+=($!); }
address() { echo "127.$((RANDOM % 250)).$((RANDOM % 250)).$((RANDOM % 250 + 1))"; }

syslog() { # everything that logs to /dev/log or UDP, in the traditional and the RFC 5424 form
  need rsyslogd || return
  cat > "$work/rsyslog.conf" <<EOF
module(load="imuxsock") module(load="imudp") input(type="imudp" port="5514" address="127.0.0.1")
if not (\$programname startswith "postfix" or re_match(\$programname, "^(sshd|haproxy|CRON|cron|sudo|su|systemd.*|kernel|named|dnsmasq)\$")) then stop
*.* action(type="omfile" file="$out/syslog.log" template="RSYSLOG_TraditionalFileFormat")
*.* action(type="omfile" file="$out/syslog5424.log" template="RSYSLOG_SyslogProtocol23Format")
EOF
  back rsyslogd -n -f "$work/rsyslog.conf" -i "$work/rsyslog.pid"; sleep 1
}

ssh_logins() {
  need /usr/sbin/sshd && need sshpass || return
  mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f "$work/host"; ssh-keygen -q -t ed25519 -N '' -f "$work/me"
  cp "$work/me.pub" "$work/keys"; chmod 600 "$work/keys"
  back /usr/sbin/sshd -D -p 2222 -h "$work/host" -o AuthorizedKeysFile="$work/keys" -o StrictModes=no -o MaxStartups=100 \
    -o PermitRootLogin=yes -o PasswordAuthentication=yes -o LogLevel=VERBOSE -o UsePAM=yes -o PidFile="$work/sshd.pid"
  sleep 1
  local names=(root admin test oracle git ubuntu pi postgres ftp guest user www-data nagios deploy support backup jenkins hadoop webmaster)
  try() { timeout 12 sshpass -p "x$RANDOM" ssh -b "$(address)" -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null \
    -o PubkeyAuthentication=no -o NumberOfPasswordPrompts="$((RANDOM % 3 + 1))" "$1@127.0.0.1" true >/dev/null 2>&1; }
  for round in $(seq 12); do
    for _ in $(seq 16); do try "${names[RANDOM % ${#names[@]}]}" & jobs+=($!); done
    ssh -i "$work/me" -b "$(address)" -p 2222 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null root@127.0.0.1 true >/dev/null 2>&1
    timeout 1 bash -c 'echo hello > /dev/tcp/127.0.0.1/2222' 2>/dev/null
    wait "${jobs[@]}"; jobs=()
  done
}

web() {
  mkdir -p "$work/www/img" "$work/www/api"
  for f in index.html about.html contact.html robots.txt img/logo.png img/a.jpg style.css app.js api/items; do head -c $((RANDOM % 9000 + 200)) /dev/urandom | base64 > "$work/www/$f"; done
  if need nginx; then
    cat > "$work/nginx.conf" <<EOF
daemon off; pid $work/nginx.pid; error_log $out/nginx-error.log info; events {}
http { access_log $out/nginx-access.log combined; client_body_temp_path $work/b; proxy_temp_path $work/p; fastcgi_temp_path $work/f; uwsgi_temp_path $work/u; scgi_temp_path $work/s;
  log_format json escape=json '{"time":"\$time_iso8601","remote_addr":"\$remote_addr","request":"\$request","status":\$status,"bytes":\$body_bytes_sent,"request_time":\$request_time,"user_agent":"\$http_user_agent","referer":"\$http_referer"}';
  server { listen 127.0.0.1:8081; root $work/www; access_log $out/nginx-access.log combined; access_log $out/nginx-json.log json; location /private { deny all; } location /app { proxy_pass http://127.0.0.1:9; } } }
EOF
    back nginx -c "$work/nginx.conf" -p "$work"
  fi
  if need apache2; then
    cat > "$work/apache.conf" <<EOF
ServerRoot /usr/lib/apache2
ServerName www.example.org
Listen 127.0.0.1:8082
PidFile $work/apache.pid
LoadModule mpm_event_module modules/mod_mpm_event.so
LoadModule authz_core_module modules/mod_authz_core.so
LoadModule dir_module modules/mod_dir.so
User www-data
Group www-data
DocumentRoot $work/www
LogLevel info
ErrorLog $out/apache-error.log
LogFormat "%h %l %u %t \"%r\" %>s %b \"%{Referer}i\" \"%{User-Agent}i\"" combined
LogFormat "%h %l %u %t \"%r\" %>s %b" common
CustomLog $out/apache-access.log combined
CustomLog $out/apache-common.log common
<Location /private>
Require all denied
</Location>
EOF
    back apache2 -D FOREGROUND -f "$work/apache.conf"
  fi
  if need haproxy; then
    cat > "$work/haproxy.cfg" <<EOF
global
  log 127.0.0.1:5514 local0
defaults
  mode http
  log global
  option httplog
  timeout client 5s
  timeout server 5s
  timeout connect 2s
frontend www
  bind 127.0.0.1:8083
  default_backend pool
backend pool
  server web1 127.0.0.1:8081 check
  server web2 127.0.0.1:8082 check
EOF
    back haproxy -db -f "$work/haproxy.cfg"
  fi
  if need squid; then
    printf 'http_port 127.0.0.1:8084\nhttp_access allow all\ncache deny all\ndns_nameservers 127.0.0.1\naccess_log stdio:%s/squid-access.log\ncache_log %s/squid-cache.log\npid_filename %s/squid.pid\n' "$out" "$out" "$work" > "$work/squid.conf"
    chmod 777 "$out"; back squid -N -f "$work/squid.conf"
  fi
  sleep 3; python3 "$here/load.py" web 8081 8082 8083; python3 "$here/load.py" proxy 8084 8081
}

mail() {
  need postfix || return
  mkdir -p "$work/postfix/q" "$work/postfix/d"; cp /etc/postfix/{postfix-files,master.cf} "$work/postfix/" 2>/dev/null
  cp -r /etc/postfix/postfix-files.d /etc/postfix/dynamicmaps.cf "$work/postfix/" 2>/dev/null; : > "$work/postfix/dynamicmaps.cf"
  sed -i 's/^smtp  *inet .*/127.0.0.1:2525 inet n - n - - smtpd/; s/\(unix *[-n] *[-n] *\)[-y]\( \)/\1n\2/' "$work/postfix/master.cf"
  printf 'compatibility_level=3.6\nmyhostname=mail.example.org\nmydestination=mail.example.org,localhost\nalias_maps=\nlocal_recipient_maps=\nlocal_transport=discard\nmail_owner=postfix\nsetgid_group=postdrop\ninet_interfaces=loopback-only\ninet_protocols=ipv4\nqueue_directory=%s/postfix/q\ndata_directory=%s/postfix/d\ndaemon_directory=/usr/lib/postfix/sbin\ncommand_directory=/usr/sbin\nmaillog_file=\n' "$work" "$work" > "$work/postfix/main.cf"
  chown postfix "$work/postfix/d"
  postfix -c "$work/postfix" start 2>/dev/null; sleep 2; python3 "$here/load.py" mail 2525; sleep 3; postfix -c "$work/postfix" stop 2>/dev/null
}

postgres() {
  local bin; bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1); need "$bin/initdb" || return
  chown postgres "$work/www"; mkdir -p "$work/pg"; chown postgres "$work/pg"
  as() { runuser -u postgres -- "$@"; }
  as "$bin/initdb" -D "$work/pg/d" >/dev/null
  printf "port=5544\nlisten_addresses='127.0.0.1'\nunix_socket_directories='$work/pg'\nlogging_collector=off\nlog_statement=all\nlog_duration=on\nlog_connections=on\nlog_disconnections=on\nlog_checkpoints=on\nlog_lock_waits=on\nlog_autovacuum_min_duration=0\nlog_line_prefix='%%m [%%p] %%q%%u@%%d '\ncheckpoint_timeout=30s\nautovacuum_naptime=3s\n" >> "$work/pg/d/postgresql.conf"
  as "$bin/postgres" -D "$work/pg/d" > "$out/postgresql.log" 2>&1 & pids+=($!); sleep 3
  as "$bin/pgbench" -h "$work/pg" -p 5544 -i -q postgres >/dev/null 2>&1
  as "$bin/pgbench" -h "$work/pg" -p 5544 -c 4 -t 250 -R 60 postgres >/dev/null 2>&1
  for i in $(seq 60); do
    as "$bin/psql" -h "$work/pg" -p 5544 -q postgres -c "select count(*) from missing_$i" -c "select 1/($i-$i)" -c "create table t$i(id serial primary key, name text unique)" \
      -c "insert into t$i(name) values('a$i'),('b')" -c "insert into t$i(name) values('b')" -c "drop table t$i" -c "select '$i' + 'x'::int" >/dev/null 2>&1
  done
}

names() {
  if need named; then
    mkdir -p "$work/named"; chmod 777 "$work/named"
    printf 'options { directory "%s/named"; listen-on port 5353 { 127.0.0.1; }; listen-on-v6 { none; }; recursion no; pid-file none; querylog yes; };\nlogging { channel q { file "%s/named-queries.log"; print-time yes; print-category yes; print-severity yes; severity info; }; category default { q; }; category queries { q; }; };\nzone "example.org" { type master; file "zone"; };\n' "$work" "$out" > "$work/named.conf"
    printf '$TTL 300\n@ SOA ns root 1 300 300 300 300\n@ NS ns\nns A 127.0.0.1\nwww A 127.0.0.2\nmail A 127.0.0.3\n' > "$work/named/zone"
    back named -g -c "$work/named.conf" -u root 2>"$out/named.log"
  fi
  if need dnsmasq; then back dnsmasq -k -p 5354 -a 127.0.0.1 -R -C /dev/null -x "$work/dnsmasq.pid" --address=/example.org/127.0.0.9 --log-queries=extra --log-facility="$out/dnsmasq.log"; fi
  sleep 1; python3 "$here/load.py" dns 5353; python3 "$here/load.py" dns 5354
}

databases() {
  if need redis-server; then
    back redis-server --port 6390 --dir "$work" --save 2 10 --logfile "$out/redis.log" --loglevel verbose
    sleep 1; for i in $(seq 25); do redis-cli -p 6390 mset a$i 1 b$i 2 c$i 3 d$i 4 e$i 5 f$i 6 g$i 7 h$i 8 i$i 9 j$i 1 >/dev/null; sleep .7; done
  fi
  if need mariadbd; then
    mkdir -p "$work/my"; mariadb-install-db --user=root --datadir="$work/my" >/dev/null 2>&1
    back mariadbd --no-defaults --user=root --datadir="$work/my" --socket="$work/my.sock" --port=3390 --bind-address=127.0.0.1 --general-log=1 --general-log-file="$out/mariadb-general.log" --slow-query-log=1 --long-query-time=0 --slow-query-log-file="$out/mariadb-slow.log" --log-error="$out/mariadb-error.log"
    sleep 4; python3 "$here/load.py" sql | mariadb --no-defaults -f -S "$work/my.sock" >/dev/null 2>&1
  fi
}

zookeeper() {
  need /usr/share/java/zookeeper.jar && need java || return
  local jars; jars=$(ls /usr/share/java/{zookeeper*,slf4j-api,slf4j-reload4j,slf4j-log4j12,reload4j*,log4j-1.2*,commons-cli,commons-io,netty*,jline*,snappy-java,metrics-core,jackson*,jetty*}.jar 2>/dev/null | tr '\n' ':')
  printf 'log4j.rootLogger=DEBUG,F\nlog4j.appender.F=org.apache.log4j.FileAppender\nlog4j.appender.F.File=${log.file}\nlog4j.appender.F.Threshold=INFO\nlog4j.appender.F.layout=org.apache.log4j.PatternLayout\nlog4j.appender.F.layout.ConversionPattern=%%d{ISO8601} - %%-5p [%%t:%%C{1}@%%L] - %%m%%n\n' > "$work/log4j.properties"
  for n in 1 2 3; do
    mkdir -p "$work/zk$n"; echo $n > "$work/zk$n/myid"
    printf "tickTime=500\ninitLimit=10\nsyncLimit=5\ndataDir=$work/zk$n\nclientPort=228$n\nadmin.enableServer=false\n4lw.commands.whitelist=*\nserver.1=127.0.0.1:2881:3881\nserver.2=127.0.0.1:2882:3882\nserver.3=127.0.0.1:2883:3883\n" > "$work/zk$n.cfg"
  done
  for round in 1 2 3; do
    for n in 1 2 3; do java -Xmx64m -Dlog.file="$out/zookeeper$n.log" -Dlog4j.configuration="file:$work/log4j.properties" -cp "$jars" org.apache.zookeeper.server.quorum.QuorumPeerMain "$work/zk$n.cfg" >/dev/null 2>>"$out/zookeeper-err.log" & zk[n]=$!; sleep 2; done
    python3 "$here/load.py" zookeeper 2281 2282 2283
    for n in 2 3 1; do kill "${zk[n]}"; sleep 2; done
  done
}

spark() {
  need "${PYSPARK:-pyspark-python}" || return
  cp "$here/spark_jobs.py" "$work/report.py" && "$PYSPARK" "$work/report.py" > /dev/null 2> "$out/spark.log"
}

machine() { # what this machine's package management has logged
  cp /var/log/dpkg.log "$out/dpkg.log"; cp /var/log/alternatives.log "$out/" 2>/dev/null; cp /var/log/apt/history.log "$out/apt-history.log" 2>/dev/null
  cp /var/log/apt/term.log "$out/apt-term.log" 2>/dev/null; dmesg > "$out/dmesg.log" 2>/dev/null; dmesg -T > "$out/dmesg-t.log" 2>/dev/null
}

syslog
for part in ${2:-ssh_logins web mail postgres names databases zookeeper spark machine}; do echo "== $part"; $part; done
