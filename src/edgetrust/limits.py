"""Every bound on a peer, in one place, each with its reason. Sizes in bytes, times in seconds.

A bound is a constant, not a setting, until somebody shows a need: what can be set can be set wrongly.
"""

from __future__ import annotations

# TLS and connections ------------------------------------------------------------------------------------------------
HANDSHAKE_SECONDS = 20.0  # a slow device on a bad link needs about 5; an idle socket must not live longer than this
CONNECT_SECONDS = 60.0  # from the end of TLS to a complete CONNECT; the value edgeHub uses
PENDING_PER_ADDRESS = 256  # handshakes in flight from one address: a site behind NAT reconnecting, not a flood
CONNECTIONS_PER_ADDRESS = 20_000  # open connections from one address: gateways, load balancers and test machines
CLIENT_HELLO_BYTES = 16 * 1024  # read for its server name: a hello with post-quantum keys is under 4 KiB
CLIENT_HELLO_SECONDS = 10.0  # for the whole of it to arrive; it is one packet or two
PEER_CHAIN_CERTIFICATES = 10  # what a client may send; real chains have at most 5 intermediates
READ_CHUNK_BYTES = 256 * 1024  # the shared read buffer of one event loop
WRITE_HIGH_WATER_BYTES = 1024 * 1024  # a slow reader is paused here and closed when it stays above

# MQTT ---------------------------------------------------------------------------------------------------------------
CONNECT_PACKET_BYTES = 16 * 1024  # what anybody may make us hold before authentication; with SAS it is under 2 KiB
MESSAGE_BYTES = 262_144  # a device-to-cloud message with its properties, as the cloud service limits it
PACKET_BYTES = MESSAGE_BYTES + 64 * 1024  # topic, properties and headers around the largest message
SUBSCRIPTIONS_PER_SESSION = 50  # SDKs use 4; the cloud allows 5; edge modules need more
FILTERS_PER_SUBSCRIBE = 50  # as many as a session may have
INFLIGHT_OUT = 50  # unacknowledged QoS 1 messages towards one client, as deep as its cloud-to-device queue
KEEP_ALIVE_MAX_SECONDS = 1_177  # the cloud service's limit; longer or 0 is clamped to it
KEEP_ALIVE_GRACE = 1.5  # MQTT 3.1.1, 3.1.2.10
UNACKED_IN = 1_024  # publishes of one client that wait for the disk; more stops reading from it
UNACKED_UNIT_BYTES = 4 * 1024  # of bodies that count as one more publish: 16 of the largest messages, as edgeHub waits

# Identifiers --------------------------------------------------------------------------------------------------------
IDENTIFIER_CHARACTERS = 128  # device and module identifiers
USER_NAME_BYTES = 4 * 1024  # host, identifiers, api-version, client type, model id, auth-chain of five
PASSWORD_BYTES = 4 * 1024  # a SAS token is under 500 bytes
AUTH_CHAIN_DEPTH = 6  # five gateways and the device

# HTTP ---------------------------------------------------------------------------------------------------------------
HTTP_BODY_BYTES = 1024 * 1024  # a bulk of 100 identities with twins
HTTP_HEADER_BYTES = 16 * 1024  # one line or header: a token is under 500 bytes, a query a few KiB
BATCH_MESSAGES = 1_000  # in one POST of telemetry: 256 KiB of empty ones would make far more rows
PAGE_ITEMS = 1_000  # the most one listing returns
QUERY_CHARACTERS = 8_192  # one query: a list of 100 identifiers, and room
QUERY_DEPTH = 32  # brackets, NOT and functions inside each other: nobody writes more, and the stack holds it easily
QUERY_GROUPS = 10_000  # of one GROUP BY: what is grouped by an identifier is no statistic
QUERY_ROWS_AT_ONCE = 500  # rows read and looked at before others get their turn: about 20 ms
QUERY_PAGE_ITEMS = 100  # on one page of a query's result unless asked otherwise, as the cloud service gives
BULK_ITEMS = 100  # identities in one bulk request, as the cloud service limits it

# Event routes -------------------------------------------------------------------------------------------------------
EXPRESSION_CHARACTERS = 4_096  # one condition: dozens of comparisons
EXPRESSION_DEPTH = 50  # parentheses inside each other; people write three
EXPRESSION_TERMS = 200  # sums and products in one condition, each a level of the stack when it is evaluated
ROUTES = 100  # of one hub, as the cloud service limits it; each reads the log by itself
ROUTE_PAGE = 200  # events that a route takes from the log at once: 50 MiB of the largest
ROUTE_CONCURRENCY_MAX = 64  # deliveries of one endpoint at the same time
ROUTE_RETRY_SECONDS = 0.5  # first pause after a failed delivery; doubled each time, and never the last attempt
ROUTE_RETRY_MAX_SECONDS = 60.0  # the longest pause: an endpoint that is back is found within a minute
ROUTE_TIMEOUT_SECONDS = 10.0  # one delivery, connecting included

# File upload --------------------------------------------------------------------------------------------------------
UPLOADS_PER_DEVICE = 10  # open at the same time, as the cloud service limits it
UPLOAD_SECONDS = 3_600.0  # from the request for a place to the last byte and the notification
UPLOAD_BYTES = 256 * 1024**2  # one file: logs and pictures, not disk images
UPLOAD_BLOCKS = 1_000  # blocks of one file; SDKs send blocks of 4 MiB and more
UPLOAD_CHUNK_BYTES = 1024 * 1024  # written to the disk at once, off the event loop
BLOB_NAME_CHARACTERS = 1_024  # as the cloud's storage limits it

# PKI ----------------------------------------------------------------------------------------------------------------
PEM_BYTES = 256 * 1024  # one file: a chain of ten RSA-4096 certificates is about 25 KiB; a bundle of 100 roots 200 KiB
CHAIN_INTERMEDIATES = 8  # path building depth; the longest documented hierarchy has 5
SYSTEM_BUNDLE_BYTES = 4 * 1024 * 1024  # the system's trust store in one file; distributions ship 200 to 500 KiB
PATH_STEPS = 64  # issuers looked at when a failed path validation is explained; honest chains need about 10
CERTIFICATES_READ_KEPT = 4_096  # certificates whose extensions stay parsed; a fleet shares few intermediates
CERTIFICATE_NAMES = (
    50  # subject alternative names in one certificate we issue: a server of many services needs about 10
)
CLOCK_SKEW_SECONDS = 300  # tolerated on SAS expiry, as edgeHub does

# Registry and messages ----------------------------------------------------------------------------------------------
MODULES_PER_DEVICE = 50  # as the cloud service limits it
C2D_QUEUE = 50  # messages waiting for one device
C2D_TTL_SECONDS = 3_600.0  # how long a cloud-to-device message waits unless it says otherwise
C2D_TTL_MAX_SECONDS = 172_800.0  # the longest it may wait: two days, as the cloud service limits it
C2D_DELIVERIES = 10  # attempts before it is given up, as the cloud service does
C2D_LOCK_SECONDS = 60.0  # a leased message is delivered again after this, unless it was completed
C2D_MESSAGE_ID_CHARACTERS = 128  # what a sender calls its message; SDKs use a UUID
FEEDBACK_BATCH = 64  # records about cloud-to-device messages that are read at once, as the cloud service does
FEEDBACK_LOCK_SECONDS = 60.0  # a batch that was read and not completed is read again after this
FEEDBACK_TTL_SECONDS = 172_800.0  # as long as a message may wait: a service that was away for a day finds its records
FEEDBACK_KEPT = 100_000  # records that nobody reads must not fill the disk: about 20 MB
TWIN_TAGS_BYTES = 8 * 1024  # as the cloud service limits them
TWIN_PROPERTIES_BYTES = 32 * 1024  # desired, and reported, each
TWIN_DEPTH = 10  # objects and arrays inside each other
TWIN_KEY_BYTES = 1024  # the name of one member
TWIN_VALUE_BYTES = 4 * 1024  # one text
TWIN_PATCH_BYTES = 128 * 1024  # the JSON of 32 KiB, with its escapes and white space
TWIN_REQUESTS_WAITING = 64  # of one connection; SDKs have one or two under way
TWIN_REPORTS_KEPT = 64  # patches of one device that wait for the hub; stacked ones count as one
METHODS_IN_FLIGHT = 10  # calls of one device that wait: it has one thread for them, as the SDKs do it
METHOD_PAYLOAD_BYTES = 128 * 1024  # of a call, and of its answer, as the cloud service limits them
METHOD_RESPONSE_SECONDS = 30  # for a device to answer, unless the caller says otherwise
METHOD_RESPONSE_SECONDS_MIN, METHOD_RESPONSE_SECONDS_MAX = 5, 300  # what the cloud service takes
METHOD_CONNECT_SECONDS_MAX = 300  # for a device to come, as long as it may take to answer
REFUSALS_KEPT = 1_000  # ring buffer of refusals with all their checks
VERIFIED_CHAINS_KEPT = 10_000  # remembered path validations, by thumbprint and bundle
VERIFIED_ISSUERS_KEPT = 256  # issuers of verified chains: a fleet's devices share a few, and send at most 10 each
SESSIONS_REMEMBERED = 100_000  # stored sessions kept at hand, so that a returning client costs no query
REGISTRATIONS_KEPT = 100_000  # registrations the hub keeps at hand, about 1 KiB each

# The gateway --------------------------------------------------------------------------------------------------------
SCOPE_REFRESH_SECONDS = 3_600.0  # full synchronisation of the device scope
SCOPE_REFRESH_SPACING_SECONDS = 120.0  # between two refreshes of the same identity
SCOPE_RETRY_SECONDS = 60.0  # until the first synchronisation works
UPSTREAM_BATCH = 500  # messages taken from the queue at once
UPSTREAM_WINDOW = 256  # unacknowledged publishes towards the hub: what it stores together while the next travel
UPSTREAM_WINDOW_BYTES = 4 * 1024**2  # of them, so that large messages do not fill the memory of both sides
UPSTREAM_GATHER_SECONDS = 0.005  # before the queue is read again: one read for what many devices send
UPSTREAM_FORGET_SECONDS = 0.05  # what the hub has acknowledged leaves the queue together; a crash repeats that much
QUEUE_FRESH_BYTES = 32 * 1024**2  # of messages that all queues have in memory until they are leased; more are read then
QUEUE_FRESH_MESSAGE_BYTES = 512  # that each of them counts beside body and properties
QUEUE_BYTES = 2 * 1024**3  # all queues of a gateway, unless its deployment says otherwise; beyond it publishers wait
HELD_BYTES = 32 * 1024**2  # what publishers may make a gateway hold while its queues are full or its disk is
HELD_RETRY_SECONDS = 1.0  # between two attempts to store what is held: a disk that has room again is noticed
UNROUTED_SECONDS = 60.0  # between two lines about messages that no route takes
METRIC_OBSERVATIONS = 1_000  # of one kind that quantiles are made of
UPSTREAM_UNFORGOTTEN = 1_000  # sent and still in the queue: a disk that does not forget them holds up sending
REPEATS_KEPT = 2_000  # messages of one sender that are recognised when they come again: more than are ever under way
REPEATS_SECONDS = 7 * 86_400  # for how long: a gateway that was cut off for days sends again what was under way then
CLIENTS_REPORTED_BYTES = 16 * 1024  # of a twin's 32 KiB, for who is connected: about a hundred clients
CLIENTS_REMEMBERED = 10_000  # who was connected, until somebody newer takes the place
CLIENTS_GATHER_SECONDS = 5.0  # a gateway tells together who has come and gone: a storm is one report
EDGE_ROUTES = 200  # of one gateway: each is looked at for each message
DELIVERY_BATCH = 50  # messages for a module taken from its queue at once: as many as may wait for its PUBACK
HUB_REQUEST_SECONDS = 20.0  # one request to the hub, as long as edgeHub waits for a cloud operation
ON_DEMAND_SECONDS = 10.0  # a connecting device waits this long for the hub to be asked about it; clients give up at 60
LOOK_UP_SECONDS = 3.0  # a gateway that is asked about somebody waits this long for the hub, then its copy answers
START_WAIT_SECONDS = 0.7  # a gateway that knows its identity waits this long for the hub before it starts without
TRUST_REREAD_SECONDS = 60.0  # the machine's trust store is read again, so that a new root in it is seen
ASKED_KEPT = 10_000  # identities that were asked for and are not in the scope: strangers must not fill the memory
ON_DEMAND_PAUSE_SECONDS = 2.0  # after a question that the hub did not answer: devices must not wait in line
ON_DEMAND_AT_ONCE = 16  # questions to the hub about single identities that are open at the same time
UPSTREAM_TOKEN_SECONDS = 3_600  # life of the module's SAS token; the connection is renewed at half
UPSTREAM_RETRY_SECONDS = (
    0.1,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    16.0,
    32.0,
    60.0,
)  # a short cut costs little, a long one no load
UPSTREAM_CAREFUL_TRIES = 2  # connections without any progress before the message at the head is looked at
UPSTREAM_STEADY_SECONDS = 5.0  # a connection that lived this long was a good one: the next attempt comes at once
UPSTREAM_DRAIN_SECONDS = 10.0  # for the last acknowledgements before a connection is renewed
CHILD_CONNECT_SECONDS = 5.0  # for a connection in a child's name before its copy has to do
CHILD_OPERATION_SECONDS = 20.0  # for the hub's answer to a twin request, as edgeHub waits
UPSTREAM_KEEP_ALIVE_SECONDS = 30  # a dead connection to the hub is noticed within this
SCOPE_WAIT_SECONDS = 30  # how long the hub holds the question whether the scope has changed
SCOPE_SYNCHRONISE_SPACING_SECONDS = 0.2  # between two full synchronisations: many changes at once make one of them
SCOPE_WATCH_RETRY_SECONDS = 2.0  # until the hub is asked again whether the scope has changed
UPSTREAM_STOP_SECONDS = 3.0  # for the last acknowledgements when a gateway stops
FORWARDED_PER_ADDRESS = 64  # connections passed on for one address: a site of gateways below, each with two or three
FORWARDED_AT_ONCE = 256  # connections passed on altogether: two of the 1,024 files that a process may often open, each
FORWARD_BUFFER_BYTES = 64 * 1024  # of one direction that its reader has not taken: a certificate chain is 10 KiB
FORWARD_CONNECT_SECONDS = 10.0  # to reach the service, or the gateway above; clients give up at 30
FORWARD_IDLE_SECONDS = 300.0  # without a byte in either direction; a client that waits asks again sooner
CERTIFICATE_CHECK_SECONDS = 60.0  # between two looks at what is due for renewal, and at replaced files
CERTIFICATE_LEAST_CHECK_SECONDS = 1.0  # between two looks, however short a certificate of a gateway lives
REAUTHENTICATE_SECONDS = 300.0  # open connections are decided again, as edgeHub does

# The store ----------------------------------------------------------------------------------------------------------
STORE_BUSY_SECONDS = 10.0  # wait for another process's SQLite transaction; a large group commits in milliseconds
STORE_STATEMENTS = 500  # prepared statements of one SQLite connection: one for each number of rows and those of queries
STORE_READERS = 3  # threads that read; SQL holds the disk or the GIL, more threads only queue elsewhere
STORE_WRITES_TOGETHER = 64  # small writes that share one commit: a reconnect storm does not sync once per session
APPEND_BACKLOG_BYTES = 64 * 1024**2  # messages in memory that wait for the disk, about two seconds of a busy node
APPEND_GROUP_MESSAGES = 5_000  # in one transaction: larger ones are no cheaper and make the first sender wait
EVENT_POLL_SECONDS = 1.0  # until messages that another process stored are seen by readers waiting here
HOUSEKEEPING_SECONDS = 60.0  # between two looks at what is old enough to be forgotten
TRIM_STEP_ROWS = 2_000  # removed in one transaction: a few milliseconds in which nobody else writes
TRIM_STEP_BYTES = 8 * 1024**2  # the same for large events
CHANGES_KEPT = 1_000_000  # registry changes that a process which was away can catch up with
CONSUMER_CHARACTERS = 128  # the name of a consumer of the event log
CA_CERTIFICATES = 100  # registered CA certificates of one hub
SCOPE_PAGE = 100  # devices on one page of a scope listing unless asked otherwise
EDGE_DEPTH = 5  # gateways above each other, as the cloud service allows
CONFIGURATIONS = 100  # of one hub, as the cloud service limits them
CONFIGURATION_SECONDS = 30.0  # until changed tags are noticed by configurations; one query for each of them
JOBS = 1_000  # scheduled jobs that are remembered; the oldest that have ended are forgotten
JOB_AT_ONCE = 20  # devices of one job that are dealt with together: method calls wait for their devices
JOB_SECONDS = 3_600  # a job's longest run unless it says otherwise
JOB_SECONDS_MAX = 172_800  # two days: what takes longer is no job but a configuration
POLICIES = 100  # shared access policies of one hub; every service request looks one up
KEY_BYTES_MIN, KEY_BYTES_MAX = 16, 64  # symmetric keys, decoded, as the cloud service takes them
ACCEPTED_KEPT = 10_000  # audit records of accepted connections

# The certificate authority ------------------------------------------------------------------------------------------
EST_BODY_BYTES = 64 * 1024  # a CSR with RSA-8192 and 50 names is under 10 KiB
EST_PASSWORDS_REMEMBERED = 10_000  # right passwords kept as keyed hashes, so that each request does not cost 40 ms
EST_CHAINS_REMEMBERED = 1_000  # verified chains of connections that ask again and of batches; a few KiB each
EST_REQUESTS_WAITING = 1_000  # for a person, of one credential: more than anybody looks through
EST_PENDING_SECONDS = 30  # when a client whose request waits for a person may ask again
EST_RATE_PER_ADDRESS = 50.0  # requests a second from one address without a good credential: a site behind NAT
EST_BURST_PER_ADDRESS = 500  # of them at once
EST_REFUSALS_PER_ADDRESS = (
    20  # refusals at once from one address without a good credential; guessing passwords ends here
)
EST_REFUSAL_RECOVERY = 0.5  # refusals a second that are forgiven: two seconds for each
EST_RATE_PER_CREDENTIAL = 50.0  # requests a second with one good credential from one address, whatever others do there
EST_BURST_PER_CREDENTIAL = (
    5_000  # of them at once: a plant behind one gateway whose devices share a bootstrap certificate
)
EST_REFUSALS_PER_CREDENTIAL = (
    500  # refusals at once with one: some of a batch that are wrong do not keep off the others
)
EST_CREDENTIAL_REFUSAL_RECOVERY = (
    5.0  # refusals a second with one that are forgiven: 150 devices that try every 30 seconds
)
EST_ADDRESSES_KEPT = 10_000  # accounts whose rate is remembered: addresses, and good credentials at addresses
CRL_SECONDS = 86_400  # how long a CRL is good for: a day, so that a revocation is seen within one
OCSP_SECONDS = 3_600  # how long an OCSP answer is good for
OCSP_REQUEST_BYTES = 16 * 1024  # one request for one certificate is under 300 bytes
CERTIFICATES_MEASURE_SECONDS = 300.0  # between two counts for the gauges of what ends first: a fleet is one query
AUTHORITIES_REREAD_SECONDS = 2.0  # until a running server sees what `edgetrust ca` changed

# Transport ----------------------------------------------------------------------------------------------------------
DEADLINE_TICK_SECONDS = 0.25  # deadlines of connections are late by up to this; a turn of an empty wheel costs 2 us
CORK_BYTES = 64 * 1024  # writes of one wake-up are collected up to here, so that back-pressure is felt while writing
WRITE_LOW_WATER_BYTES = 256 * 1024  # a paused writer goes on here
WRITE_LIMIT_BYTES = 16 * 1024 * 1024  # what a reader that does not read may make us hold: its 50 largest messages
SLOW_READER_SECONDS = 30.0  # above the high-water mark without taking a byte
CLOSE_SECONDS = 5.0  # for the peer to take what was written before a close
LISTEN_BACKLOG = 4_096  # a site's devices come back at once after a power cut; the kernel caps it at somaxconn
CLIENT_TIMEOUT_SECONDS = 30.0  # our own clients: TCP, TLS and CONNACK together
CLIENT_WINDOW = 64  # unacknowledged publishes of one of our clients
CLIENT_INCOMING = 1_000  # received messages that wait for the application; then reading pauses
AUDIT_GATHER_SECONDS = 0.2  # decisions of this long are written together; nobody waits for them
AUDIT_SLACK = 10  # the oldest are removed when a tenth too many are kept
AUDIT_WAITING = 10_000  # decisions in memory that wait for the disk
HTTP_KEEP_ALIVE_SECONDS = 120.0  # an idle HTTPS connection; SDKs poll once a minute

EST_ANSWER_BYTES = 256 * 1024  # what an EST server may send: a dozen certificates are 30 KiB
EST_SECONDS = 30.0  # one request to an EST server
RENEWAL_LOOK_SECONDS = 60.0  # at most between two looks at the clock: it may jump, a machine may have slept

# Services on unix sockets --------------------------------------------------------------------------------------------
SERVICE_REQUESTS = 10  # open requests of one user at one service, as the real services allow
SERVICE_IDENTIFIER_CHARACTERS = 180  # of a key or certificate: with hash and ending its file name has less than 255
SERVICE_BODY_BYTES = 256 * 1024  # a chain, or what a module wants encrypted
SERVICE_BODY_SECONDS = 5.0  # for a body to arrive over a local socket
BUNDLE_LOG_BYTES = 4 * 1024 * 1024  # of each log in a support archive, from its end
CHECK_SECONDS = 10.0  # for whoever a check of a gateway asks
CHECK_CLOCK_SECONDS = 10.0  # that two clocks may be apart, as the real tool tolerates
SERVICE_CALL_SECONDS = 30.0  # for a service of this machine to answer another, as the real services wait
SERVICE_PAUSE_SECONDS = 0.5  # before a request to a service that has just gone is made once more
SERVICE_ISSUE_SECONDS = 600.0  # for the certificate service to have a certificate issued elsewhere
SERVICE_LOOK_SECONDS = 5.0  # for a service to say what it knows by heart; who waits longer asks again
SERVICE_TPM_SECONDS = 600.0  # for the key service to have a TPM used, which is a dozen commands on a slow one
SERVICE_WAIT_SECONDS = (0.1, 5.0)  # the first and the longest pause while a service waits for another to start
MODULE_ASK_SECONDS = 30.0  # between two questions to the hub about one module: `sign` is called for every token
MODULE_RESTART_SECONDS = (1.0, 60.0)  # the first and the longest pause before a module is started again
MODULE_STEADY_SECONDS = 60.0  # a module that lived this long is started again after the first pause
MANAGEMENT_REQUESTS = 50  # open requests of one user at the management API, as the real one allows
MODULE_LOG_BYTES = 4 * 1024 * 1024  # what a module printed, kept twice: the last full part and the part being written
MODULE_LOG_LINE_BYTES = 16 * 1024  # of a line that a module has not ended yet; what is longer is several lines
MODULE_LOG_LOOK_SECONDS = 2.0  # until it is seen that nobody follows a log any more whose module is silent
MODULE_LOG_END_SECONDS = 1.0  # for what an ended module had still to print; programs it left may hold its output open
MODULE_STOP_SECONDS = 10.0  # for a module to end before it is killed
UNIX_BACKLOG = 128  # connections that wait to be accepted

# Devices ------------------------------------------------------------------------------------------------------------
DEVICE_TOKEN_SECONDS = 3_600  # life of a device's SAS token, as the SDKs have it
DEVICE_RETRY_SECONDS = 0.5  # first pause after a lost connection; doubled each time
DEVICE_RETRY_MAX_SECONDS = 30.0  # the longest pause: a gateway that is back is found within half a minute
DEVICE_REGISTER_SECONDS = 120.0  # for a registration to be assigned; a provisioning service takes seconds
PROVISION_AGAIN_SECONDS = 300.0  # a gateway that its hub refuses asks its provisioning service no more often
DEVICE_REGISTER_TOKEN_SECONDS = 30  # life of the token of a registration, as the edge runtime makes it
DEVICE_GIVE_UP_SECONDS = 300.0  # a device that nobody told otherwise tries that long before it says so

# Provisioning -------------------------------------------------------------------------------------------------------
DPS_PAYLOAD_BYTES = 64 * 1024  # the body of a registration: the cloud takes 8 KiB of payload; a CSR and TPM keys beside
DPS_RETRY_AFTER_SECONDS = 1  # when a device may ask again how its registration goes; an assignment takes milliseconds
DPS_POLL_GRACE_SECONDS = 600.0  # a token that was good at registration counts that much longer for polls: one client
# makes it for 30 seconds and uses it to the end
DPS_REGISTERS_PER_ID = 10  # registrations of one identifier within DPS_REGISTERS_SECONDS; a device needs one
DPS_REGISTERS_SECONDS = 60.0  # the time of DPS_REGISTERS_PER_ID
DPS_REQUESTS_WAITING = 16  # requests of one MQTT connection that wait; SDKs send one at a time
DPS_OPERATIONS_AT_ONCE = 256  # assignments in work; the others wait with 202
DPS_KEPT_IDS = 100_000  # identifiers whose last registrations are remembered for DPS_REGISTERS_PER_ID
ENROLLMENT_GROUPS = 1_000  # every certificate is compared with all of them; the cloud allows 100
BULK_ENROLLMENTS = 100  # in one request of the service API; the cloud takes 10
TPM_KEY_BYTES = 2_048  # TPM2B_PUBLIC of an RSA-4096 key is under 600 bytes
TPM_TOOL_SECONDS = 60.0  # one command to a TPM: making an RSA key takes a slow one half a minute
TPM_CHALLENGES_KEPT = 10_000  # activations that wait for their device
TPM_CHALLENGE_SECONDS = 900.0  # for a device to come back with what its TPM has decrypted, and to poll with it
HUB_LINKS = 50  # hubs that one service assigns to, as the cloud allows
HUB_PING_SECONDS = 30.0  # between two measurements of how fast linked hubs answer
ALLOCATION_TRIES = 10  # requests to an allocation webhook that answers 429 or more
ALLOCATION_PAUSE_SECONDS = 1.0  # before the second request to it; each further pause is that much longer
ALLOCATION_SECONDS = 10.0  # one request to an allocation webhook

# Fleets -------------------------------------------------------------------------------------------------------------
FLEET_DOCUMENT_CHARACTERS = 4 * 1024 * 1024  # a topology of 50,000 devices
FLEET_DOCUMENT_DEPTH = 64  # lists and tables inside each other: five levels of gateways need 14
