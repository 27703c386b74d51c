"""The API keys that senders use: where they are kept, followed, changed and confirmed.

At the bottom are words and seams (`record`, `audit`, `times`, `errors`, `api_key`, `store`), above
them rooms that do not know each other except that `stores` uses `confirmations`: `confirmations`,
`authority`, `stores`, `following`; on top `service`, which control runs. Workers load `api_key`
alone.
"""
