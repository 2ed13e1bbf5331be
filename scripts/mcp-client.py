"""Calls every tool of `mayfly mcp` by the package `mcp`: mcp-client.py MAYFLY ETCD (see mcp.sh)."""

import asyncio
import sys

import jsonschema
from mcp import Client, StdioServerParameters

FILE = """
- {name: prod, prefix: www, services: [{name: web, version: 1, route: /}]}
- {name: temp, extends: prod, expires: 1h, services: [{name: web, version: 2}]}
"""
# Tool, arguments, a part of the answer, whether it is an error.
CALLS = [
    ("lint", {"stdin": FILE}, "ok, 2 environments", False),
    ("apply", {"stdin": FILE}, "temp created", False),
    ("status", {"environment": "temp"}, "temp", False),
    ("explain", {"target": "www-temp.example.com"}, "instances", False),
    ("diff", {"a": "temp", "b": "prod", "at_most": 1}, "1 of 1 services differs", False),
    ("wait", {"environment": "temp", "timeout": "10ms"}, "not in force", True),
    ("schema", {"files": "services"}, "$schema", False),
    ("keep", {"name": "temp", "time": "9h"}, "temp lives until", False),
    ("relaunch", {"service": "web", "version": "1"}, "launcher", True),
    ("confirm", {"daemon": "haproxy-updater"}, "exit code 1", True),
    ("delete", {"names": ["temp"]}, "temp deleted", False),
]


async def main(mayfly: str, etcd: str) -> int:
    failed = 0
    for mode in ("auto", "legacy"):
        server = StdioServerParameters(command=mayfly, args=["--etcd", etcd, "mcp"])
        async with Client(server, mode=mode) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            print(f"{mode}: protocol {client.protocol_version}, {len(tools)} tools")
            for tool in tools.values():
                jsonschema.Draft202012Validator.check_schema(tool.input_schema)
            missing = tools.keys() - {name for name, *_ in CALLS}
            for name in missing:
                print(f"FAILED {name}: it is not called here")
            failed += len(missing)
            for name, arguments, part, is_error in CALLS:
                jsonschema.validate(arguments, tools[name].input_schema)
                result = await client.call_tool(name, arguments)
                text = result.content[0].text
                good = part in text and bool(result.is_error) == is_error
                failed += not good
                hints = tools[name].annotations
                what = "reads" if hints.read_only_hint else "destroys" if hints.destructive_hint else "adds"
                print(f"{'ok' if good else 'FAILED'} {name} ({what})" + ("" if good else f": {text}"))
    print(f"{failed} failed")
    return min(failed, 1)


sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2])))
