"""A FastAPI application that makes videos."""

from typing import Annotated

from fastapi import Body, Depends, FastAPI

from kling_async import Inbox, Input, KlingClient, Result, TaskRef
from kling_async.webhooks import fastapi

inbox = Inbox("https://testserver/kling", secret="sixteen characters or more")
app = FastAPI(lifespan=fastapi.lifespan(lambda: KlingClient(inbox=inbox)))
app.include_router(fastapi.router(inbox), prefix="/kling")
fastapi.answer_errors(app)

Kling = Annotated[KlingClient, Depends(fastapi.client)]


@app.post("/videos", status_code=202)
async def submit(video: Annotated[Input, Body()], kling: Kling) -> TaskRef:
    return (await kling.submit(video)).ref


@app.get("/videos/{ref:path}")
async def wait(ref: TaskRef, kling: Kling) -> Result:
    return await kling.attach(ref).wait(timeout=20)
