"""The control process: starts workers, sends them keys, counts, and answers its own addresses.

Everything slow or stateful is here, so that workers have nothing but the data path. Rooms, from the
one that needs no other to the one that needs all:

- `core`: errors, background tasks, listening sockets, the present configuration
- `workers`: worker processes, and what is sent to them
- `metrics`: what is counted, exposed and logged about requests
- `authorities`: remote authorities, asked about keys that no store holds
- `admin`: control's own addresses over HTTP
- `lifecycle`: builds all parts, starts, reloads, drains and ends the gateway

Never imports `dataplane`: the two share `channel`, `model`, `metrics`, `settings` and
`worker_contract`.
"""
