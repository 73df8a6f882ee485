"""One crafted file for each thing that `validate` finds: its code, severity and place; and sound files, without problems."""

import hashlib
import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from adapterhub.documents import Problem
from adapterhub.errors import MalformedFile
from adapterhub.operations.faults import grouped
from adapterhub.operations.inspect import inspect
from adapterhub.operations.validate import validate
