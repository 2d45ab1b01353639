from keras import ops

from keras_itr.numerics import at_least_float32, tempered_log_softmax, unit_rows


def soft_label_alignment(student_similarity, teacher_similarity, student_temperature, teacher_temperature=1.0):
    """KL divergence from the teacher's to the student's row distribution.

    `Q = softmax(T / tau_s)`, `P = softmax(Z / tau_l)`,
    `(1/N) sum_i sum_j Q_ij (log Q_ij - log P_ij)`: sum over columns, mean over
    rows. Nothing is masked: the diagonal and duplicates take part. Gradients
    flow into both similarities and both temperatures.

    Args:
        student_similarity: `(N, C)` float.
        teacher_similarity: `(N, C)` float.
        student_temperature: positive number or scalar tensor; a divisor.
        teacher_temperature: likewise, default 1.0.

    Returns:
        A scalar, at least float32.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import soft_label_alignment

    soft_label_alignment(np.eye(3), np.eye(3), 1.0)  # 0.0
    ```

    Reference: Huang et al., CUSA, AAAI 2024, in the form of the official code.
    """
    log_student = tempered_log_softmax(student_similarity, student_temperature)
    log_teacher = tempered_log_softmax(teacher_similarity, teacher_temperature)
    divergence = ops.exp(log_teacher) * (log_teacher - log_student)
    return ops.mean(ops.sum(divergence, axis=-1))


def cross_modal_soft_label_alignment(similarity, teacher_image, teacher_text, temperature, teacher_temperature=1.0):
    """CSA: image-text similarities follow the similarities within each modality.

    Rows of `similarity` (image to text) follow the image teacher, columns (text
    to image) the text teacher; the two directions are halved. Teacher features
    are normalised and stopped here.

    Args:
        similarity: `(N, N)` float, images in rows, captions in columns.
        teacher_image: `(N, Di)` float, any width.
        teacher_text: `(N, Dt)` float, any width.
        temperature: the student's, one for both directions.
        teacher_temperature: default 1.0.

    Returns:
        A scalar without any weight.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import cross_modal_soft_label_alignment

    draw = np.random.default_rng(0).normal
    cross_modal_soft_label_alignment(np.eye(4), draw(size=(4, 5)), draw(size=(4, 7)), temperature=0.45)
    ```

    Reference: Huang et al., CUSA, AAAI 2024.
    """
    similarity = at_least_float32(similarity)
    return 0.5 * (
        soft_label_alignment(similarity, _teacher_similarity(teacher_image), temperature, teacher_temperature)
        + soft_label_alignment(
            ops.transpose(similarity), _teacher_similarity(teacher_text), temperature, teacher_temperature
        )
    )


def uni_modal_soft_label_alignment(
    image, text, teacher_image, teacher_text, image_temperature, text_temperature, teacher_temperature=1.0
):
    """USA: similarities within each modality follow that modality's teacher.

    Features are normalised here; the two modalities are halved; teachers are
    stopped.

    Args:
        image: `(N, D)` float, the student's image vectors.
        text: `(N, D)` float, the student's caption vectors.
        teacher_image: `(N, Di)` float, any width.
        teacher_text: `(N, Dt)` float, any width.
        image_temperature: the student's, for image-image similarities.
        text_temperature: the student's, for text-text similarities.
        teacher_temperature: default 1.0.

    Returns:
        A scalar without any weight.

    Example:

    ```python
    import numpy as np
    from keras_itr.losses import uni_modal_soft_label_alignment

    draw = np.random.default_rng(0).normal
    image, text = draw(size=(4, 8)), draw(size=(4, 8))
    uni_modal_soft_label_alignment(image, text, image, text, 0.45, 0.45)
    ```

    Reference: Huang et al., CUSA, AAAI 2024.
    """
    image, text = unit_rows(image), unit_rows(text)
    return 0.5 * (
        soft_label_alignment(
            ops.matmul(image, ops.transpose(image)),
            _teacher_similarity(teacher_image),
            image_temperature,
            teacher_temperature,
        )
        + soft_label_alignment(
            ops.matmul(text, ops.transpose(text)),
            _teacher_similarity(teacher_text),
            text_temperature,
            teacher_temperature,
        )
    )


def _teacher_similarity(features):
    features = ops.stop_gradient(unit_rows(features))
    return ops.matmul(features, ops.transpose(features))
