package vspheretest

import (
	"fmt"
	"strconv"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// A question is one that a VM's operation waits to have answered.
type question struct {
	id      string
	choices int         // their keys are 0, 1, ...
	answer  chan string // capacity 1: the key of the choice
}

// Question makes the call's task ask a question about its VM, as a host does when files were moved
// or a disk is full, and wait until AnswerVM answers it. A VM has one question at a time. The first
// choice, key "0", cancels the operation; the others let it go on.
func Question(text string, choices ...string) Effect {
	return Effect{name: fmt.Sprintf("question %q", text), asks: text, choices: choices}
}

// ask puts the question to the VM of the operation, if it is for one, and waits for its answer.
func (o *op) ask(text string, choices []string) types.BaseMethodFault {
	m := o.s.vm(*o.task.Info.Entity)
	if m == nil {
		return nil
	}
	key, fault := o.answer(m, text, choices)
	if fault == nil && key == "0" {
		return &types.RequestCanceled{}
	}
	return fault
}

// answer puts a question to a VM and returns the key of the choice. A VM has one question at a time;
// the next one waits until it is answered.
func (o *op) answer(m *vm, text string, choices []string) (key string, fault types.BaseMethodFault) {
	q := &question{id: o.s.newValue("question"), choices: len(choices), answer: make(chan string, 1)}
	if !o.turn(m, q) {
		return "", &types.RequestCanceled{}
	}
	info := &types.VirtualMachineQuestionInfo{Id: q.id, Text: text}
	for i, c := range choices {
		info.Choice.ChoiceInfo = append(info.Choice.ChoiceInfo, &types.ElementDescription{
			Description: types.Description{Label: c, Summary: c}, Key: fmt.Sprint(i),
		})
	}
	set := func(info *types.VirtualMachineQuestionInfo) {
		change(o.ctx, m.obj, func() {
			m.obj.Runtime.Question = info
			m.obj.Summary.Runtime.Question = info
		})
	}
	set(info)
	o.s.post(o.ctx, &types.VmMessageEvent{VmEvent: o.s.vmEvent(o.ctx, m), Message: text, MessageInfo: info.Message})
	defer func() {
		set(nil)
		o.s.mu.Lock()
		m.question = nil
		close(o.s.freed)
		o.s.freed = make(chan struct{})
		o.s.mu.Unlock()
	}()
	select {
	case key := <-q.answer:
		return key, nil
	case <-o.life.Done():
		return "", &types.RequestCanceled{}
	}
}

// turn makes q the VM's question once it has no other. It returns false if the operation ends first.
func (o *op) turn(m *vm, q *question) bool {
	for {
		o.s.mu.Lock()
		if m.question == nil {
			m.question = q
			o.s.mu.Unlock()
			return true
		}
		freed := o.s.freed
		o.s.mu.Unlock()
		select {
		case <-freed:
		case <-o.life.Done():
			return false
		}
	}
}

// AnswerVM answers the question that a VM's operation waits for.
func (v *verbs) AnswerVM(_ *simulator.Context, req *types.AnswerVM) soap.HasFault {
	m, fault := v.target(req.This)
	if fault != nil {
		return &methods.AnswerVMBody{Fault_: fault}
	}
	fail := func(property string) soap.HasFault {
		return &methods.AnswerVMBody{Fault_: soapFault(&types.InvalidArgument{InvalidProperty: property})}
	}
	v.s.mu.Lock()
	q := m.question
	v.s.mu.Unlock()
	if q == nil || q.id != req.QuestionId {
		return fail("questionId")
	}
	if n, err := strconv.Atoi(req.AnswerChoice); err != nil || n < 0 || n >= q.choices || fmt.Sprint(n) != req.AnswerChoice {
		return fail("answerChoice")
	}
	select {
	case q.answer <- req.AnswerChoice:
	default: // answered already
		return fail("questionId")
	}
	return &methods.AnswerVMBody{Res: &types.AnswerVMResponse{}}
}
