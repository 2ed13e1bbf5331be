-- Requests of wrk, spread over all environments.
-- Arguments: edge|internal, number of environments, number of services, number of the first
-- environment, and for a load whose every answer is checked: a file for a line for each answer, then names that get every fourth request.

local ffi = require("ffi")
ffi.cdef [[
    typedef struct { long seconds; long nanoseconds; } mayfly_time;
    int clock_gettime(int clock, mayfly_time *time);
]]
local moment = ffi.new("mayfly_time")

-- Microseconds since 1970, as the benchmark counts its changes.
local function now()
    ffi.C.clock_gettime(0, moment)
    return string.format("%d%06d", tonumber(moment.seconds), math.floor(tonumber(moment.nanoseconds) / 1000))
end

local side, environments, services, first, log
local often, ready, count = {}, {}, 0

local function format(name, service)
    local headers = {}
    if side == "edge" then
        headers["Host"] = "www-" .. name .. ".example.com"
    else
        headers["Host"] = service .. ".service"
        headers["x-mayfly"] = name
    end
    if log then headers["x-sent"] = now() end
    -- Those of the command line; wrk has put a Host among them.
    for header, value in pairs(wrk.headers) do
        if header:lower() ~= "host" then headers[header] = value end
    end
    return wrk.format("GET", "/", headers)
end

local function nth(number)
    local service = (number * 7) % services
    return format(string.format("env-%05d", first + number), service == 0 and "web" or string.format("service-%02d", service))
end

function init(arguments)
    side, environments, services = arguments[1], tonumber(arguments[2]), tonumber(arguments[3])
    first = tonumber(arguments[4])
    if arguments[5] then
        log = io.open(arguments[5], "a")
        log:setvbuf("full", 1048576)
        for place = 6, #arguments do often[#often + 1] = arguments[place] end
        -- Leaves the machine some time for the changes.
        delay = function() return 1 end
        response = function(status, _, body)
            log:write(now(), " ", status, " ", body)
            if body:sub(-1) ~= "\n" then log:write("\n") end
        end
    else
        for number = 0, environments - 1 do ready[number] = nth(number) end
    end
end

function request()
    count = count + 1
    if not log then return ready[(count * 7919) % environments] end
    if #often > 0 and count % 4 == 0 then
        -- `name/service`: inside, the service is asked for by name.
        local name, service = often[(count / 4) % #often + 1]:match("([^/]+)/(.+)")
        return format(name, service)
    end
    return nth((count * 7919) % environments)
end

function done(summary, latency)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    print(string.format("RESULT %d %d %d %d", summary.requests, failed, summary.duration, latency:percentile(99)))
end
