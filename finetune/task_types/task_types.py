"""The types of tasks by name."""

from finetune.data.tasks import Task
from finetune.task_types.multi_label import MultiLabel
from finetune.task_types.task_type import TaskType
from finetune.task_types.text_labels import Classification, Regression
from finetune.task_types.token_labels import TokenClassification

TASK_TYPES: dict[str, TaskType] = {
    "classification": Classification(),
    "regression": Regression(),
    "token_classification": TokenClassification(),
    "multi_label": MultiLabel(),
}


def type_of(task: Task) -> TaskType:
    return TASK_TYPES[task.type]
