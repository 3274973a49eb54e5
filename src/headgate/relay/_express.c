/* Events from engines to clients with no Python between: see express.py for what it is for.

An epoll of its own watches the sockets of engines. What has come is read into one buffer; where that is whole chunks,
each of them an event like the last but for its text, it goes out on the client's socket as it is, and the time is put
down. All else is given to Python, in the order in which it came.

A lane is one answer's way. In front of hundreds of streams each event finds its lane's memory cold, so there is little
of it, and it lies together. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64           /* lanes served in one go, before the loop has its turn */
#define BUFFER (64 * 1024) /* read at a time */
#define CHUNK 4096         /* one of that size is not usual, as in upstream.py */
#define SHAPE 512          /* what an event begins and ends with, together */
#define WATCHED (EPOLLIN | EPOLLRDHUP | EPOLLET)

typedef struct {
    PyObject_HEAD
    int epoll;
    int at, count; /* of those that are ready: the one being served, and how many */
    struct epoll_event ready[BATCH];
    char buffer[BUFFER];
} Express;

typedef struct {
    PyObject_HEAD
    int engine;           /* its transport's own, which doesn't read while a lane is open */
    int client;           /* a duplicate: the client's transport may close its own at any time, and another get it */
    char open, reading;   /* reading: epoll watches the engine's socket */
    char armed;           /* what comes next begins a chunk, and the shape is known */
    char unsure;          /* the client's transport may hold bytes that come before ours */
    char bunched;         /* more than one event came in one read */
    unsigned short begin, end; /* lengths: the shape is what events begin with, and behind it what they end with */
    unsigned int came, room;
    double *times; /* when they came, since they were last taken */
    Express *express;
    PyObject *received, *over, *write, *left;
    char shape[SHAPE];
} Lane;

static PyTypeObject LaneType, ExpressType;

/* How many chunks data is, each of them a usual event, and nothing else; 0 where it isn't. */
static unsigned int usual(const Lane *lane, const char *data, size_t size)
{
    unsigned int found = 0;
    size_t at = 0;
    while (at < size) {
        size_t length = 0, text = at; /* of the data, behind its length in hexadecimal */
        for (; text < size && text - at < 3; text++) {
            char digit = data[text];
            if (digit >= '0' && digit <= '9')
                length = length * 16 + (size_t)(digit - '0');
            else if (digit >= 'a' && digit <= 'f')
                length = length * 16 + (size_t)(digit - 'a' + 10);
            else
                break;
        }
        if (text == at || data[at] == '0' || size - text < 2 || data[text] != '\r' || data[text + 1] != '\n')
            return 0;
        text += 2;
        length += 2; /* the line end behind the data */
        if (length > size - text || length < (size_t)lane->begin + lane->end || text - at + length >= CHUNK)
            return 0;
        at = text + length;
        /* In one line: but for the blank one that ends it there is no line end in it. */
        if (memcmp(data + text, lane->shape, lane->begin) != 0 ||
            memcmp(data + at - lane->end, lane->shape + lane->begin, lane->end) != 0 ||
            memchr(data + text, '\n', length - 4) != NULL)
            return 0;
        found++;
    }
    return found;
}

static double monotonic(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void note(Lane *lane, unsigned int events)
{
    if (lane->room - lane->came < events) {
        unsigned int room = 2 * lane->room + events + 14;
        double *times = PyMem_Realloc(lane->times, room * sizeof(double));
        if (times == NULL)
            return; /* out of memory: the next thing that needs some says so */
        lane->times = times;
        lane->room = room;
    }
    double time = monotonic();
    lane->bunched |= events > 1;
    while (events--)
        lane->times[lane->came++] = time;
}

/* Calls one of the lane's functions, which may close the lane. Its result, or NULL with an exception set. */
static PyObject *call(PyObject *function, const char *data, size_t size)
{
    PyObject *result = NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    Py_INCREF(function);
    if (bytes != NULL)
        result = PyObject_CallOneArg(function, bytes);
    Py_XDECREF(bytes);
    Py_DECREF(function);
    return result;
}

static void end(Lane *lane)
{
    PyObject *over = Py_NewRef(lane->over);
    PyObject *result = PyObject_CallNoArgs(over);
    if (result == NULL)
        PyErr_WriteUnraisable(over);
    Py_XDECREF(result);
    Py_DECREF(over);
}

static void give(Lane *lane, const char *data, size_t size)
{
    lane->armed = 0;
    lane->unsure = 1;
    PyObject *result = call(lane->received, data, size);
    if (result == NULL)
        PyErr_WriteUnraisable((PyObject *)lane);
    Py_XDECREF(result);
}

/* Whether the client's transport holds nothing, so that what is sent past it overtakes nothing. */
static int is_clear(Lane *lane)
{
    if (lane->unsure) {
        PyObject *function = Py_NewRef(lane->left);
        PyObject *left = PyObject_CallNoArgs(function);
        if (left != NULL)
            lane->unsure = PyLong_AsLong(left) != 0;
        Py_XDECREF(left);
        Py_DECREF(function);
        PyErr_Clear();
    }
    return !lane->unsure;
}

static void pass(Lane *lane, const char *data, size_t size, unsigned int events)
{
    size_t sent = 0;
    int clear = is_clear(lane);
    if (!lane->open) /* whoever was asked has closed it: its socket's number may be another's, and it has no writer */
        return;
    if (clear) {
        ssize_t took = send(lane->client, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent = took > 0 ? (size_t)took : 0;
    }
    if (sent < size) { /* the client takes too little, or has gone: its transport waits, or finds out */
        lane->unsure = 1;
        PyObject *result = call(lane->write, data + sent, size - sent);
        if (result == NULL) { /* it has gone in this very turn, and the careful way knows what to do */
            PyErr_Clear();
            if (lane->open)
                give(lane, data, size);
            return;
        }
        Py_DECREF(result);
    }
    note(lane, events);
}

static void serve(Express *self, Lane *lane, unsigned int what)
{
    if (what & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
        end(lane); /* what there is to read still, and how it ends, is for the engine's transport */
        return;
    }
    ssize_t size = recv(lane->engine, self->buffer, BUFFER, MSG_DONTWAIT);
    if (size <= 0) {
        if (size == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            end(lane);
        return;
    }
    unsigned int events = lane->armed ? usual(lane, self->buffer, (size_t)size) : 0;
    if (events)
        pass(lane, self->buffer, (size_t)size, events);
    else
        give(lane, self->buffer, (size_t)size);
    if (size == BUFFER && lane->reading) { /* there may be more, of which we are told only if we ask anew */
        struct epoll_event event = {.events = WATCHED, .data.ptr = lane};
        epoll_ctl(self->epoll, EPOLL_CTL_MOD, lane->engine, &event);
    }
}

static PyObject *express_run(Express *self, PyObject *Py_UNUSED(none))
{
    int count = epoll_wait(self->epoll, self->ready, BATCH, 0);
    if (count < 0) {
        if (errno != EINTR)
            return PyErr_SetFromErrno(PyExc_OSError);
        count = 0;
    }
    self->count = count;
    for (self->at = 0; self->at < self->count; self->at++) {
        Lane *lane = self->ready[self->at].data.ptr;
        if (lane != NULL) {
            Py_INCREF(lane);
            serve(self, lane, self->ready[self->at].events);
            Py_DECREF(lane);
        }
    }
    self->count = 0;
    Py_RETURN_NONE;
}

static int start(Lane *lane)
{
    struct epoll_event event = {.events = WATCHED, .data.ptr = lane};
    if (epoll_ctl(lane->express->epoll, EPOLL_CTL_ADD, lane->engine, &event) != 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    lane->reading = 1;
    return 0;
}

static void stop(Lane *lane)
{
    if (!lane->reading)
        return;
    Express *express = lane->express;
    lane->reading = 0;
    epoll_ctl(express->epoll, EPOLL_CTL_DEL, lane->engine, NULL);
    for (int at = express->at + 1; at < express->count; at++) /* told by now, and not to be served any more */
        if (express->ready[at].data.ptr == lane)
            express->ready[at].data.ptr = NULL;
}

static void shut(Lane *lane)
{
    if (!lane->open)
        return;
    stop(lane);
    lane->open = lane->armed = 0;
    close(lane->client);
}

static int lane_clear(Lane *lane)
{
    shut(lane);
    Py_CLEAR(lane->received);
    Py_CLEAR(lane->over);
    Py_CLEAR(lane->write);
    Py_CLEAR(lane->left);
    return 0;
}

static PyObject *express_open(Express *self, PyObject *args)
{
    int engine, client;
    PyObject *received, *over, *write, *left;
    if (!PyArg_ParseTuple(args, "iiOOOO:open", &engine, &client, &received, &over, &write, &left))
        return NULL;
    Lane *lane = PyObject_GC_New(Lane, &LaneType);
    if (lane == NULL)
        return NULL;
    memset((char *)lane + sizeof(PyObject), 0, sizeof(Lane) - sizeof(PyObject));
    lane->engine = engine;
    lane->express = (Express *)Py_NewRef(self);
    lane->received = Py_NewRef(received);
    lane->over = Py_NewRef(over);
    lane->write = Py_NewRef(write);
    lane->left = Py_NewRef(left);
    lane->unsure = 1;
    PyObject_GC_Track(lane);
    lane->client = fcntl(client, F_DUPFD_CLOEXEC, 0);
    if (lane->client < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(lane);
        return NULL;
    }
    lane->open = 1;
    if (start(lane) != 0) {
        Py_DECREF(lane);
        return NULL;
    }
    return (PyObject *)lane;
}

static PyObject *lane_arm(Lane *lane, PyObject *args)
{
    const char *begin, *end;
    Py_ssize_t begin_size, end_size;
    if (!PyArg_ParseTuple(args, "y#y#:arm", &begin, &begin_size, &end, &end_size))
        return NULL;
    lane->armed = lane->open && end_size >= 4 && begin_size + end_size <= SHAPE;
    if (lane->armed) {
        memcpy(lane->shape, begin, (size_t)begin_size);
        memcpy(lane->shape + begin_size, end, (size_t)end_size);
        lane->begin = (unsigned short)begin_size;
        lane->end = (unsigned short)end_size;
    }
    Py_RETURN_NONE;
}

static PyObject *lane_take(Lane *lane, PyObject *Py_UNUSED(none))
{
    PyObject *times = PyList_New(lane->came);
    for (unsigned int at = 0; times != NULL && at < lane->came; at++) {
        PyObject *time = PyFloat_FromDouble(lane->times[at]);
        if (time == NULL)
            Py_CLEAR(times);
        else
            PyList_SET_ITEM(times, at, time);
    }
    if (times == NULL)
        return NULL;
    PyObject *taken = Py_BuildValue("(NO)", times, lane->bunched ? Py_True : Py_False);
    if (taken != NULL)
        lane->came = lane->bunched = 0;
    return taken;
}

static PyObject *lane_pause(Lane *lane, PyObject *Py_UNUSED(none))
{
    stop(lane);
    Py_RETURN_NONE;
}

static PyObject *lane_resume(Lane *lane, PyObject *Py_UNUSED(none))
{
    if (lane->open && !lane->reading && start(lane) != 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *lane_close(Lane *lane, PyObject *Py_UNUSED(none))
{
    lane_clear(lane);
    Py_RETURN_NONE;
}

static PyObject *lane_came(Lane *lane, void *Py_UNUSED(none))
{
    return PyLong_FromUnsignedLong(lane->came);
}

static int lane_traverse(Lane *lane, visitproc visit, void *arg)
{
    Py_VISIT(lane->received);
    Py_VISIT(lane->over);
    Py_VISIT(lane->write);
    Py_VISIT(lane->left);
    return 0;
}

static void lane_dealloc(Lane *lane)
{
    PyObject_GC_UnTrack(lane);
    lane_clear(lane);
    Py_CLEAR(lane->express);
    PyMem_Free(lane->times);
    PyObject_GC_Del(lane);
}

static PyMethodDef lane_methods[] = {
    {"arm", (PyCFunction)lane_arm, METH_VARARGS, NULL},
    {"take", (PyCFunction)lane_take, METH_NOARGS, NULL},
    {"pause", (PyCFunction)lane_pause, METH_NOARGS, NULL},
    {"resume", (PyCFunction)lane_resume, METH_NOARGS, NULL},
    {"close", (PyCFunction)lane_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lane_attributes[] = {
    {"came", (getter)lane_came, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyTypeObject LaneType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "headgate.relay._express.Lane",
    .tp_basicsize = sizeof(Lane),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)lane_dealloc,
    .tp_traverse = (traverseproc)lane_traverse,
    .tp_clear = (inquiry)lane_clear,
    .tp_methods = lane_methods,
    .tp_getset = lane_attributes,
};

static PyObject *express_new(PyTypeObject *type, PyObject *args, PyObject *named)
{
    if (!PyArg_ParseTuple(args, ":Express") || (named != NULL && PyDict_GET_SIZE(named) > 0))
        return NULL;
    Express *self = (Express *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (self->epoll < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void express_dealloc(Express *self)
{
    if (self->epoll >= 0)
        close(self->epoll);
    Py_TYPE(self)->tp_free(self);
}

static PyObject *express_fileno(Express *self, PyObject *Py_UNUSED(none))
{
    return PyLong_FromLong(self->epoll);
}

static PyMethodDef express_methods[] = {
    {"fileno", (PyCFunction)express_fileno, METH_NOARGS, NULL},
    {"run", (PyCFunction)express_run, METH_NOARGS, NULL},
    {"open", (PyCFunction)express_open, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject ExpressType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "headgate.relay._express.Express",
    .tp_basicsize = sizeof(Express),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = express_new,
    .tp_dealloc = (destructor)express_dealloc,
    .tp_methods = express_methods,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "headgate.relay._express", .m_size = -1};

PyMODINIT_FUNC PyInit__express(void)
{
    if (PyType_Ready(&LaneType) != 0 || PyType_Ready(&ExpressType) != 0)
        return NULL;
    PyObject *made = PyModule_Create(&module);
    if (made != NULL && (PyModule_AddObjectRef(made, "Express", (PyObject *)&ExpressType) != 0 ||
                         PyModule_AddObjectRef(made, "Lane", (PyObject *)&LaneType) != 0))
        Py_CLEAR(made);
    return made;
}
