"""A test of blocking code."""

import os
import unittest
from unittest import mock

from kling_async import MasterTextToVideo
from kling_async.blocking import KlingClient
from kling_async.testing import Emulator


class VideosTest(unittest.TestCase):  # or django.test.TestCase
    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.emulator = cls.enterClassContext(Emulator(speed=1000))
        cls.enterClassContext(mock.patch.dict(os.environ, cls.emulator.environment))

    def test_a_task_that_still_runs(self) -> None:
        paid = len(self.emulator.ledger)
        with KlingClient() as kling:  # your view
            task = kling.submit(MasterTextToVideo("a fox in fresh snow"))
            self.emulator.finish_tasks()
            self.assertTrue(task.wait().result_urls)
        self.assertEqual(len(self.emulator.ledger), paid + 1)
