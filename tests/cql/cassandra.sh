# The configuration of one node, small enough for three on a machine with two cores. `server.sh` reads this file.
# Takes the node's folder, address, token and the seeds.
configuration() {
    cat <<YAML
cluster_name: buho
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
dynamic_snitch: false
num_tokens: 1
initial_token: "$3"
auto_bootstrap: false
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: "$4"
listen_address: $2
rpc_address: $2
storage_port: 7000
start_native_transport: true
native_transport_port: $PORT
native_transport_max_threads: 32

$([[ $TLS != 0 ]] && printf '%s\n' 'client_encryption_options:' '  enabled: true' '  optional: true' \
    "  keystore: $1/keystore" "  keystore_password: $STOREPASS")
$([[ $TLS == mutual ]] && printf '%s\n' '  require_client_auth: true' "  truststore: $1/truststore" \
    "  truststore_password: $STOREPASS")

authenticator: $([[ $LOGIN == 1 ]] && echo PasswordAuthenticator || echo AllowAllAuthenticator)
authorizer: $([[ $LOGIN == 1 ]] && echo CassandraAuthorizer || echo AllowAllAuthorizer)
role_manager: CassandraRoleManager

data_file_directories: ["$1/data"]
commitlog_directory: $1/commitlog
hints_directory: $1/hints
saved_caches_directory: $1/saved_caches
cdc_raw_directory: $1/cdc_raw
disk_failure_policy: die
commit_failure_policy: die

$([[ $SYNC == batch ]] && echo 'commitlog_sync: batch' || printf 'commitlog_sync: periodic\ncommitlog_sync_period: 10s')
commitlog_segment_size: 16MiB
commitlog_total_space: 256MiB
commitlog_disk_access_mode: legacy
memtable_heap_space: 96MiB
memtable_offheap_space: 96MiB
memtable_flush_writers: 1
key_cache_size: 8MiB
row_cache_size: 0MiB
counter_cache_size: 0MiB
prepared_statements_cache_size: 8MiB
file_cache_enabled: false
networking_cache_size: 32MiB
concurrent_reads: 8
concurrent_writes: 8
concurrent_compactors: 1
compaction_throughput: 0MiB/s

# Two busy cores must not look like a broken server.
read_request_timeout: 10s
range_request_timeout: 20s
write_request_timeout: 10s
cas_contention_timeout: 5s
truncate_request_timeout: 60s
request_timeout: 20s
slow_query_log_timeout: 2s

auto_snapshot: false
internode_compression: none
storage_compatibility_mode: NONE
uuid_sstable_identifiers_enabled: true
YAML
}
