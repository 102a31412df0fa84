"""paddle-sft launch on several machines: what it refuses, and how machines meet and hear of each other's end.

tests/parallel/test_machines.py trains over two network namespaces.
"""

from __future__ import annotations

import re
import socket
import sys
import threading

import pytest

from paddle_sft.cli import launch, launch_meeting
from paddle_sft.cli.launch import Request, make_plan, other_machines, parse_request, start_of_command
from paddle_sft.cli.launch_job import Plan, joint_report, run_job
from paddle_sft.cli.launch_meeting import Failure, Meeting
from paddle_sft.cli.launch_nodes import Elastic, Nodes, Unreachable, interface_of, own_address, require_here
from paddle_sft.core.errors import ArgumentError
from tests.e2e.commands import free_port

TWO = ["--nnodes", "2", "--master", "10.0.0.1:8090"]


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(launch_meeting, "INTERVAL", 0.02)
    monkeypatch.setattr(launch_meeting, "LINGER", 0.5)


def meetings(count=2, **nnodes):
    """One a machine, all on this one; `nnodes`: what machine rank0, rank1, ... was told instead."""
    port = free_port()
    counts = [nnodes.get(f"rank{rank}", count) for rank in range(count)]
    return [Meeting(Nodes(counts[rank], rank, "127.0.0.1", port), rank + 1, print) for rank in range(count)]


def gather(all_of_them, wait=20.0):
    """Let them gather at the same time; returns the errors, None where there was none."""
    errors = [None] * len(all_of_them)

    def one(number):
        try:
            all_of_them[number].gather(wait)
        except (ArgumentError, Unreachable) as error:
            errors[number] = error

    threads = [threading.Thread(target=one, args=(n,), name=str(n)) for n in range(len(all_of_them))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def leave(all_of_them, code=0):
    threads = [threading.Thread(target=one.leave, args=(code,)) for one in all_of_them]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# ---- what the user writes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([*TWO], "--rank is missing: --nnodes 2 needs the number of this machine, 0 to 1; machine 0 is 10.0.0.1"),
        ([*TWO, "--rank", "2"], "--rank must be from 0 to 1, because --nnodes is 2; got 2"),
        ([*TWO, "--rank", "-1"], "--rank must be a number from 0 on, got '-1'"),
        (["--nnodes", "2", "--rank", "0"], "--nnodes 2 needs --master HOST:PORT"),
        (["--nnodes", "two", "--rank", "0"], "--nnodes must be a number from 1 on, got 'two'"),
        (["--nnodes", "2", "--master", "10.0.0.1", "--rank", "0"], "--master must be HOST:PORT, such as 10.0.0.1:8090"),
        (["--nnodes", "2", "--master", "a:70000", "--rank", "0"], "--master must be HOST:PORT"),
        (["--rank", "1"], "--rank is for several machines; add --nnodes"),
        (["--nnodes", "1", "--rank", "1"], "--nnodes 1 has machine 0 only, and --rank says 1"),
        (["--nnodes", "1:2", "--master", "a:1", "--rank", "0"], "is a range, which needs --master etcd://HOST:PORT"),
        (["--nnodes", "1:2", "--master", "etcd://a:1"], "--job_id is missing"),
        (["--nnodes", "1:2", "--master", "etcd://a:1", "--job_id", "a.b"], "letters, digits, _ and - only, got 'a.b'"),
        (["--nnodes", "2:1", "--master", "etcd://a:1", "--job_id", "j"], "--nnodes 2:1 runs backwards; write 1:2"),
        (["--nnodes", "1:2", "--master", "etcd://a:1", "--job_id", "j", "--rank", "0"], "--rank does not go with etcd"),
        (["--max_restart", "3"], "--max_restart is for elastic runs"),
        ([*TWO, "--rank", "0", "--wait", "0"], "--wait must be above 0 seconds, got 0"),
    ],
)
def test_machines_that_make_no_sense_are_refused(words, complaint):
    with pytest.raises(ArgumentError, match=re.escape(complaint)):
        parse_request([*words, "a.py"])


def test_one_machine_is_alone_whatever_a_script_for_many_says():
    assert parse_request(["--nnodes", "1", "--master", "a:1", "--rank", "0", "a.py"]).machines is None


def test_several_machines_reach_the_launcher_with_a_log_folder_and_an_interface_each():
    request = parse_request([*TWO, "--rank", "1", "--nproc", "4", "--job_id", "j", "a.py"])
    plan = make_plan(request, [], {"PADDLE_NNODES": "9"}, "127.0.0.1", "10.9.9.9")
    assert plan.command == [
        *start_of_command("127.0.0.1"), "--nproc_per_node", "4",
        *["--nnodes", "2", "--master", "10.9.9.9:8090", "--rank", "1", "--job_id", "j"],
        *["--log_dir", "log/machine-1", "a.py"],
    ]  # fmt: skip
    assert plan.environment == {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": interface_of("127.0.0.1")}
    assert any("PADDLE_NNODES=9 is unset" in note for note in plan.notes)


def test_an_interface_that_the_user_chose_is_kept():
    request = parse_request([*TWO, "--rank", "1", "a.py"])
    environment = make_plan(request, [], {"GLOO_SOCKET_IFNAME": "eth7"}, "127.0.0.1", "10.0.0.1").environment
    assert environment == {"GLOO_SOCKET_IFNAME": "eth7"}


def test_elastic_machines_start_again_by_default():
    request = parse_request(["--nnodes", "1:2", "--master", "etcd://e:2379", "--job_id", "j", "a.py"])
    assert request.machines == Elastic(1, 2, "e", 2379, "j", 3, 30)
    command = make_plan(request, [], {}, "127.0.0.1").command
    assert command[command.index("--elastic_level") + 1] == "1" and "--rank" not in command
    assert command[command.index("--job_id") + 1] == "j."  # of which j2 has no part


def test_the_start_says_what_the_other_machines_have_to_run():
    request = parse_request(["--nnodes", "3", *TWO[2:], "--rank", "1", "--nproc", "2", "train", "a b.json"])
    said = other_machines(launch.replace_command_by_file(request))
    assert "this is machine 1 of 3; on each of the others, with RANK 0, 2:" in said
    assert "paddle-sft launch --nnodes 3 --master 10.0.0.1:8090 --rank RANK --nproc 2 train 'a b.json'" in said


def test_an_etcd_server_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: object())
    with pytest.raises(Unreachable, match=r"the etcd server 127.0.0.1:\d+ did not answer within 0.2 s"):
        launch.reach_etcd(Elastic(1, 2, "127.0.0.1", free_port(), "j", 3, 30), 0.2)


def test_a_missing_etcd_client_is_named_with_the_extra(monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=re.escape("-e '.[cpu,elastic]'")):
        launch.reach_etcd(Elastic(1, 2, "127.0.0.1", 1, "j", 3, 30), 0.2)


# ---- how machines meet -----------------------------------------------------------------------------------------------


def test_machines_find_each_other_and_know_their_first_ranks(hasty):
    machines = meetings(3)
    assert gather(machines) == [None] * 3
    assert [one.first_rank() for one in machines] == [0, 1, 3]  # they have 1, 2 and 3 ranks
    leave(machines)


def test_different_numbers_of_machines_are_named_on_both(hasty):
    machines = meetings(2, rank1=3)
    errors = gather(machines)
    assert "--nnodes is 2 here (machine 0) and 3 on machine 1 (127.0.0.1)" in str(errors[0])
    assert "--nnodes is 3 here (machine 1) and 2 on machine 0 (127.0.0.1)" in str(errors[1])
    leave(machines)


def test_a_number_given_twice_is_named_on_all(hasty):
    first, second = meetings(3)[:2]
    first._arrive()  # it waits, as long as it takes
    machines = [second, Meeting(second.nodes, 1, print)]
    assert all("--rank 1 was given to two machines" in str(error) for error in gather(machines))
    leave([first, *machines])


def test_a_master_that_does_not_answer_is_named_with_what_to_check(hasty):
    with pytest.raises(Unreachable, match=r"--master 127.0.0.1:\d+ did not answer within 0.3 s \(.*refused.*firewall"):
        meetings()[1].gather(0.3)


def test_a_machine_that_does_not_come_is_named(hasty):
    machine = meetings(3)[0]
    with pytest.raises(Unreachable, match="machine 1, 2 of 3 did not come within 0.3 s"):
        machine.gather(0.3)
    machine.leave(2)


def test_a_machine_that_comes_back_does_not_join_a_job_that_goes_on_without_it(hasty):
    machines = meetings()
    assert gather(machines) == [None, None]
    with pytest.raises(Unreachable, match=r"machine 0 \(they began without this one; end and start all\)"):
        Meeting(machines[1].nodes, 1, print).gather(0.5)
    leave(machines)


def test_a_port_that_is_taken_is_named(hasty):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        nodes = Nodes(2, 0, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ArgumentError, match=r"port \d+ can't be opened .*choose another port"):
            Meeting(nodes, 1, print).gather(1.0)


def test_machine_zero_must_be_the_master():
    nodes = Nodes(3, 0, "192.0.2.7", 8090)  # an address for documents, RFC 5737
    with pytest.raises(ArgumentError, match=r"192.0.2.7 \(192.0.2.7\) is no address of this machine.*--rank 1 to 2"):
        require_here(nodes, "192.0.2.7")


def test_a_machine_that_hides_behind_its_loopback_is_named(hasty, monkeypatch):
    machines = meetings()
    addresses = {"0": "127.0.1.1", "1": "10.0.0.2"}
    monkeypatch.setattr(launch_meeting, "own_address", lambda *_: addresses[threading.current_thread().name])
    errors = gather(machines)
    assert "machine 0 knows itself as 127.0.1.1, where no other machine reaches it" in str(errors[0]).replace(
        "machine 1", "machine 0"
    )
    leave(machines)


def test_the_address_towards_a_machine_is_of_the_interface_that_leads_there():
    assert own_address("127.0.0.1", 80) == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo" or sys.platform != "linux"


# ---- while ranks run -------------------------------------------------------------------------------------------------


def plan(code):
    return Plan([sys.executable, "-c", code], {}, [])


def run_all(machines, *codes):
    """Run a program in the place of Paddle's launcher on each; returns the exit codes."""
    assert gather(machines) == [None] * len(machines)
    found = [None] * len(machines)

    def one(number):
        found[number] = run_job(plan(codes[number]), machines[number])

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(machines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


_LINE = "Container rank 1 status failed cmd ['a'] code -9 log no_such_log"
FAILS = f"import sys; print({_LINE!r}, file=sys.stderr); exit(247)"
WAITS = "import time; time.sleep(60)"


def test_the_death_of_a_rank_ends_the_other_machine_with_the_same_code_and_the_ranks_number(hasty, capfd):
    assert run_all(meetings(), WAITS, FAILS) == [137, 137]
    said = capfd.readouterr().err
    assert (
        "rank 2 on machine 1 failed with exit code -9; the end of" in said
    )  # machine 0 has one rank, this was its 2nd
    assert "rank 2 on this machine failed with exit code -9" in said


def test_a_machine_that_falls_silent_ends_the_others(hasty, monkeypatch, capfd):
    machines = meetings()
    assert gather(machines) == [None, None]
    machines[1].say_state(state="ended")  # which it only tells itself: it says nothing from here on
    monkeypatch.setattr(launch_meeting, "SILENCE", 0.5)
    assert run_job(plan(WAITS), machines[0]) == 1
    assert "stopped because machine 1 (127.0.0.1) gave no sign of life" in capfd.readouterr().err


def test_a_master_that_falls_silent_ends_the_others(hasty, monkeypatch, capfd):
    machines = meetings()
    assert gather(machines) == [None, None]
    machines[0]._server.shutdown()
    machines[0]._server.server_close()
    monkeypatch.setattr(launch_meeting, "SILENCE", 0.5)
    assert run_job(plan(WAITS), machines[1]) == 1
    assert "stopped because machine 0 (127.0.0.1:" in capfd.readouterr().err


def test_machines_that_end_well_end_well(hasty):
    assert run_all(meetings(), "pass", "import time; time.sleep(1)") == [0, 0]


def test_a_killed_rank_is_the_cause_and_one_that_lost_it_is_not():
    meeting = meetings()[0]
    meeting.say_state(failure=Failure(0, 1))
    killed = launch_meeting.replace(meeting.card, id="other", rank=1, failure=Failure(1, -9, 1, "there", ("last",)))
    meeting.say_state(met=("other",))
    meeting._heard["other"] = launch_meeting.Heard(killed, 0.0, True)
    assert [one.rank for one in meeting.failures()] == [1, 0]
    report = joint_report(meeting.failures(), 0)
    assert report.startswith("launch: rank 1 on machine 1 failed with exit code -9; the end of there:\n  last")
    assert "then rank 0 on machine 0 failed with exit code 1" in report


def test_the_request_of_one_machine_has_none():
    assert parse_request(["a.py"]) == Request("a.py")
