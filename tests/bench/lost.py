"""How many answers to submits are lost to a server that closes idle connections.

A request that crosses with the closing is lost. Here submits go out in bursts, after pauses
spread evenly around the time after which the server closes; to a server far away that window is
as long as the way there and back.
"""

import asyncio

import aiohttp

from kling_async import AnswerLostError, KlingClient, Limits, MasterTextToVideo
from kling_async.transport import connector
from tests.bench import figures, server

IDLE = 0.3
SPREAD = 0.1
DISTANCES = (0.0, 0.02)
CLIENTS = 10
BURSTS = 15
BURST = 20
SUBMITS = CLIENTS * BURSTS * BURST


async def one_client(origin: str, lane: aiohttp.TCPConnector, pauses: list[float]) -> int:
    """Submit a burst after each pause; return how many answers were lost."""
    one = MasterTextToVideo("a fox in fresh snow")
    limits = Limits(requests_per_minute=10_000_000, concurrent_tasks=100_000)
    lost = 0
    async with (
        aiohttp.ClientSession(connector=lane) as session,
        KlingClient("a-key", base_url=origin, limits=limits, session=session) as client,
    ):
        for pause in (0.0, *pauses):  # the first burst opens the connections
            await asyncio.sleep(pause)
            submits = (client.submit(one) for _ in range(BURST))
            for outcome in await asyncio.gather(*submits, return_exceptions=True):
                if isinstance(outcome, AnswerLostError):
                    lost += 1
                elif isinstance(outcome, BaseException):
                    raise outcome
    return lost


async def all_clients(origin: str, *, ours: bool) -> int:
    """Share the pauses out among the clients; return how many answers they lost together."""
    step = 2 * SPREAD / (CLIENTS * BURSTS)
    pauses = [IDLE - SPREAD + step * (number + 0.5) for number in range(CLIENTS * BURSTS)]
    clients = (
        one_client(origin, connector() if ours else aiohttp.TCPConnector(), pauses[first::CLIENTS])
        for first in range(CLIENTS)
    )
    return sum(await asyncio.gather(*clients))


def main() -> None:
    """Print both counts."""
    figures.title(
        f"Answers lost of {SUBMITS} submits, after pauses of {IDLE - SPREAD:.1f} to"
        f" {IDLE + SPREAD:.1f} s, to a server that closes after {IDLE} s"
    )
    for distance in DISTANCES:
        counts = []
        for ours in (False, True):
            with server.running(idle=IDLE, distance=distance) as origin:
                counts.append(asyncio.run(all_clients(origin, ours=ours)))
        where = f"{distance * 1000:.0f} ms away" if distance else "on this machine"
        default, own = counts
        figures.row(f"server {where}", f"aiohttp's {default}", f"ours {own}")


if __name__ == "__main__":
    main()
