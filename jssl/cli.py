"""Shared by the command lines: flags, and errors in plain words."""

from collections.abc import Iterator
import contextlib
import difflib
import faulthandler
import inspect
import itertools
import os
import pathlib
import platform
import signal
import sys
import textwrap
import time
from typing import Any
import zlib

from absl import flags, logging
import jax

from jssl import __version__, preemption
from jssl.config import config_files
from jssl.recorder import Diverged

CONFIG_HELP = (
    "A config and a data set: moco_v2:digits, moco_v2:cifar10,"
    " moco_v2:folder:PATH, or your own file, my_config.py:folder:PATH. Its"
    " entries are overridden by --config.KEY=VALUE."
)
_EXAMPLE = "python -m jssl.train --config=moco_v2:digits --workdir=runs/first"

_KEY_HELP = (
    "Sets an entry of the config: --config.epochs=100, --config.batch_size=64,"
    " --config.optimizer.learning_rate=0.1. A run's config.json lists all"
    " entries."
)
_MORE_HELP = """\
python -m jssl lists the methods, the data sets and the other commands.
--helpfull lists the flags of libraries, too."""

_DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first of several processes that train together; or"
    " $JAX_COORDINATOR_ADDRESS. TPU slices, Slurm and Open MPI need none.",
)
_PROCESSES = flags.DEFINE_integer(
    "num_processes",
    None,
    "Number of such processes; or $JAX_NUM_PROCESSES. 1 for this one alone.",
)
_PROCESS = flags.DEFINE_integer(
    "process_id", None, "Index of this process, from 0; or $JAX_PROCESS_ID."
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat_seconds",
    60,
    "All processes end if one sends no heartbeat for this many seconds.",
    lower_bound=1,
)
# Variables of Slurm and Open MPI with the number of processes.
_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
_INTERRUPTED = 128 + signal.SIGINT  # The exit code of shells.
# The other processes wait for the first one, which evaluates the encoder.
_SHUTDOWN = "shutdown_timeout_seconds"
_SHUTDOWN_SECONDS = 24 * 60 * 60


def parse(
    argv: list[str], *, words: int = 0, example: str = _EXAMPLE
) -> list[str]:
  """Parses flags, with errors in plain words.

  Messages of other libraries below warnings are not shown. Ends the program
  after --help and --version.

  Args:
    argv: The command line.
    words: Number of arguments allowed in addition to the flags.
    example: An example of the command, for the message.

  Returns:
    The program's name and those arguments.
  """
  for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):  # No name may crash a long run.
      stream.reconfigure(errors="backslashreplace")
  flags_given = itertools.takewhile(lambda x: x != "--", argv[1:])
  asked = {x.lstrip("-") for x in flags_given if x.startswith("-")}
  if asked & {"help", "helpshort", "h", "?"}:
    _finish(_help())
  if "helpfull" in asked:
    _finish(f"{_help()}\n\nFlags of libraries:\n{flags.FLAGS}")
  if "version" in asked:
    _finish(f"jssl {__version__}")
  try:
    rest = flags.FLAGS(_with_config_files(argv))
  except (AttributeError, KeyError) as error:
    _exit(f"the config has no such key: {_innermost(error)}")
  except flags.Error as error:
    _exit(f"{_innermost(error).rstrip('.')}. --help lists the flags.")
  except (OSError, ValueError) as error:
    _exit(str(error))
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)
    # Orbax logs what it raises as well.
    logging.get_absl_handler().addFilter(
        lambda record: "orbax" not in pathlib.Path(record.pathname).parts
    )
  if len(rest) > 1 + words:
    _exit(f"unexpected {rest[1 + words]!r}; {_looks_like(example)}")
  return rest


def required(flag: flags.FlagHolder, *, example: str = _EXAMPLE) -> Any:
  """Returns a flag's value; ends the program if it was not given.

  Args:
    flag: The flag.
    example: An example of the command, for the message.
  """
  if flag.value is None:
    _exit(f"--{flag.name} is missing; {_looks_like(example)}")
  return flag.value


def _finish(text):
  print(text)
  sys.exit(0)


def _help():
  """Describes a command and its flags."""
  everywhere = flags.FLAGS.get_flags_for_module(__name__)
  # The command's own flags, whose module is `__main__` under `python -m`.
  main = vars(sys.modules["__main__"]).values()
  own = [flags.FLAGS[x.name] for x in main if isinstance(x, flags.FlagHolder)]
  parts = [(sys.modules["__main__"].__doc__ or "").strip()]
  parts += ["Flags:", *map(_described, own)]
  if any(flag.name == "config" for flag in own):
    parts.append(_described_as("config.KEY=VALUE", _KEY_HELP))
  parts += ["Flags of all commands:", *map(_described, everywhere), _MORE_HELP]
  return "\n\n".join(parts)


def _described(flag):
  """Describes a flag and its default."""
  text = flag.help
  if flag.default not in (None, False, [], ""):
    text += f" (By default {flag.default_as_str.strip(chr(39))}.)"
  return _described_as(f"[no]{flag.name}" if flag.boolean else flag.name, text)


def _described_as(name, text):
  indent = " " * 6
  lines = textwrap.fill(
      text,
      width=80,
      initial_indent=indent,
      subsequent_indent=indent,
      break_on_hyphens=False,
  )
  return f"  --{name}\n{lines}"


def _looks_like(example):
  return (
      f"a command looks like\n  {example}\n--help lists its flags, python -m"
      " jssl all methods and commands."
  )


def use_compilation_cache() -> None:
  """Caches compiled programs on disk, unless JAX has a cache already.

  Each kind of CPU has its own: machines that share a home may lack instructions
  that the others have.
  """
  # Defined when JAX is imported, which its stubs do not know.
  if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
    return
  folder = pathlib.Path.home() / ".cache" / "jssl" / "compiled"
  if jax.default_backend() == "cpu":
    folder /= f"cpu-{zlib.crc32(_cpu().encode()):08x}"
  jax.config.update("jax_compilation_cache_dir", str(folder))
  # Small programs too: starting up compiles a hundred of them.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _cpu():
  """Describes the kind of CPU."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = ("flags", "Features")  # On x86 and on ARM.
    return next(line for line in lines if line.startswith(names))
  except (OSError, StopIteration):  # Not Linux.
    return platform.processor() + platform.machine()


def join_processes() -> None:
  """Joins the other processes of a training on several hosts, if any.

  They are given by flags or the environment, or found by JAX: see
  `jax.distributed.initialize`.

  Raises:
    ValueError: If a setting is missing, or the others cannot be reached.
  """
  settings = {
      "coordinator_address": _given(_COORDINATOR, "JAX_COORDINATOR_ADDRESS"),
      "num_processes": _given(_PROCESSES, "JAX_NUM_PROCESSES"),
      "process_id": _given(_PROCESS, "JAX_PROCESS_ID"),
  }
  given = {k: v for k, v in settings.items() if v is not None}
  # With one process of Slurm or Open MPI, JAX would take only one of the GPUs.
  launched_alone = any(os.environ.get(name) == "1" for name in _SIZES)
  if given == {"num_processes": 1} or (launched_alone and not given):
    return
  timeouts: dict[str, Any] = {"heartbeat_timeout_seconds": _HEARTBEAT.value}
  # JAX 0.7 has no such argument.
  if _SHUTDOWN in inspect.signature(jax.distributed.initialize).parameters:
    timeouts[_SHUTDOWN] = _SHUTDOWN_SECONDS
  try:
    jax.distributed.initialize(**given, **timeouts)
  except ValueError as error:
    if given:
      raise ValueError(
          "Several processes need --coordinator_address=HOST:PORT,"
          f" --num_processes=N and --process_id=I from 0 to N - 1: {error}"
      ) from error
    return  # There are no others.
  except RuntimeError as error:
    raise ValueError(
        "The other processes could not be reached, with --coordinator_address="
        f"{settings['coordinator_address']}: {_first_line(error)}"
    ) from error
  # When JAX ends a process because another one died, its message says which;
  # a hundred lines of stacks would hide it.
  faulthandler.disable()


def _given(flag, variable):
  """Returns a flag's value, or that of the environment."""
  if flag.value is not None or variable not in os.environ:
    return flag.value
  return flags.FLAGS[flag.name].parser.parse(os.environ[variable])


@contextlib.contextmanager
def plain_errors(*, interrupted: str = "interrupted") -> Iterator[None]:
  """Ends the program with the message of an error that a user can fix.

  Args:
    interrupted: The message after Ctrl-C.
  """
  try:
    with preemption.quit_on_second_interrupt(_write_line, _quit):
      yield
  except preemption.Stopped as error:
    # An orderly exit, along with all other processes of the training.
    _print(error)
    sys.exit(_INTERRUPTED)
  except KeyboardInterrupt:
    _exit(interrupted, code=_INTERRUPTED)
  except (ValueError, OSError, ImportError, Diverged) as error:
    if _DEBUG.value:
      raise
    _exit(f"{error}\n(--debug shows where.)")
  except jax.errors.JaxRuntimeError as error:
    if _DEBUG.value:
      raise
    if "RESOURCE_EXHAUSTED" in str(error):
      _exit(
          f"the device is out of memory: {_first_line(error)}\nLower"
          " config.batch_size, config.image_size or config.net.width."
      )
    if not _among_others():
      raise
    _print(
        f"process {jax.process_index()} lost contact with another"
        f" ({_first_line(error)}). Within {_HEARTBEAT.value} seconds JAX"
        " reports which. The same command on all of them resumes from the last"
        " checkpoint."
    )
    time.sleep(2 * _HEARTBEAT.value)  # JAX ends this process meanwhile.
    _exit("the others are still running; see their messages.")


def _print(message):
  print(f"jssl: {message}", file=sys.stderr, flush=True)


def _quit():
  """Ends the program at once, from any thread."""
  _write_line("quit at once; the checkpoints are intact")
  os._exit(_INTERRUPTED)


def _write_line(message):
  """Writes a line below a moving bar, from any thread."""
  start = "\n" if sys.stderr.isatty() else ""
  os.write(sys.stderr.fileno(), f"{start}jssl: {message}\n".encode())


def _exit(message, *, code=1):
  _print(message)
  if _among_others():
    # At once: an orderly exit would wait for others, which wait for this one.
    sys.stdout.flush()
    os._exit(code)
  sys.exit(code)


def _among_others():
  return jax.distributed.is_initialized() and jax.process_count() > 1


def _first_line(error):
  return str(error).splitlines()[0]


def _with_config_files(argv):
  """Replaces names by files, as in `--config=moco_v2:digits`."""
  argv = list(argv)
  for i, argument in enumerate(argv):
    flag, equals, value = argument.partition("=")
    if flag not in ("-config", "--config"):
      continue
    if equals:
      argv[i] = f"{flag}={_config_file(value)}"
    elif i + 1 < len(argv):
      argv[i + 1] = _config_file(argv[i + 1])
  return argv


def _config_file(value):
  """Returns the value with its config's name replaced by the file's path."""
  name, colon, dataset = value.partition(":")
  path = pathlib.Path(name if name.endswith(".py") else f"{name}.py")
  known = {}
  if path.parent in (pathlib.Path("."), pathlib.Path("configs")):
    known = config_files()
  if not path.is_file():
    path = known.get(path.stem, path)
  if not path.is_file():
    # The names are enough for files that come with jssl.
    names = sorted(known) or [str(x) for x in sorted(path.parent.glob("*.py"))]
    near = difflib.get_close_matches(path.stem if known else str(path), names)
    hint = f" Did you mean {' or '.join(near or names)}?" if names else ""
    _exit(f"--config={name} does not exist.{hint}")
  return f"{path}{colon}{dataset}"


def _innermost(error):
  """The innermost message of an error that wraps others, on one line."""
  while error.args and isinstance(error.args[0], Exception):
    error = error.args[0]
  return " ".join(str(error.args[0] if error.args else error).split())
