-- The same send as `buho-loadtest ingest --via rest`: 128 bytes of text, to 1,000 numbers in turn.
local key, device = os.getenv("KEY"), os.getenv("DEVICE")
local text = string.rep("buho ", 26):sub(1, 128)
local chat = 0

wrk.method = "POST"
wrk.path = "/v1/devices/" .. device .. "/messages"
wrk.headers["Authorization"] = "Bearer " .. key
wrk.headers["Content-Type"] = "application/json"

request = function()
    chat = (chat + 1) % 1000
    local body = string.format('{"to":"5198%07d","content":{"type":"text","text":"%s"}}', chat, text)
    return wrk.format(nil, nil, nil, body)
end
